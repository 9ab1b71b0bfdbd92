"""Whether a process has everything that it needs right now: the content of `/readyz`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.errors import StoreUnavailable
from gateway.quota.port import Epoch, Quota
from gateway.stores.postgres import Database

# The page needs no key, so requests for it must not reach the stores more often than this.
CACHE_S = 0.5


class Readiness:
    """Queries every dependency of a process, each with its own deadline. `backends_known` does no I/O."""

    def __init__(
        self, database: Database, quota: Quota, backends_known: Callable[[], bool], cache_s: float = CACHE_S
    ) -> None:
        self._database = database
        self._quota = quota
        self._backends_known = backends_known
        self._cache_s = cache_s
        self._querying = asyncio.Lock()
        self._queried_monotonic = float("-inf")
        self._missing: list[str] = []

    async def missing(self) -> list[str]:
        """Names of what is missing: any of `postgresql`, `redis`, `counters`, `backends`.

        The state of the stores is up to `cache_s` old. The counters are missing for a moment after a restart of Redis;
        see `gateway.quota.port.RESTORE_S`.
        """
        async with self._querying:
            if time.monotonic() - self._queried_monotonic > self._cache_s:
                self._missing = await self._query()
                self._queried_monotonic = time.monotonic()
            missing = self._missing
        return missing if self._backends_known() else [*missing, "backends"]

    async def _query(self) -> list[str]:
        postgresql, redis = await asyncio.gather(self._database.ping(), self._quota.epoch(), return_exceptions=True)
        missing = []
        for name, answer in (("postgresql", postgresql), ("redis", redis)):
            if isinstance(answer, StoreUnavailable):
                missing.append(name)
            elif isinstance(answer, BaseException):
                raise answer
        if isinstance(redis, Epoch) and redis.opens_in_s > 0:
            missing.append("counters")
        return missing
