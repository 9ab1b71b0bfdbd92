"""Whether a process has what it needs right now: what `/readyz` says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.errors import StoreUnavailable
from gateway.quota.port import Epoch, Quota
from gateway.stores.postgres import Database

# Anybody may ask without a key, and must not get at the stores more often than this by it.
KEPT_S = 0.5


class Readiness:
    """Asks every dependency of a process; each has its own deadline. `backends_known` needs no I/O."""

    def __init__(self, database: Database, quota: Quota, backends_known: Callable[[], bool]) -> None:
        self._database = database
        self._quota = quota
        self._backends_known = backends_known
        self._looking = asyncio.Lock()
        self._looked_monotonic = float("-inf")
        self._away: list[str] = []

    async def missing(self) -> list[str]:
        """Names of what is missing: any of `postgresql`, `redis`, `counters`, `backends`.

        What the stores said is up to KEPT_S old. The counters are missing for a moment behind a restart of Redis; see
        `gateway.quota.port.RESTORE_S`.
        """
        async with self._looking:
            if time.monotonic() - self._looked_monotonic > KEPT_S:
                self._away = await self._look()
                self._looked_monotonic = time.monotonic()
            away = self._away
        return away if self._backends_known() else [*away, "backends"]

    async def _look(self) -> list[str]:
        postgresql, redis = await asyncio.gather(self._database.ping(), self._quota.epoch(), return_exceptions=True)
        away = []
        for name, answer in (("postgresql", postgresql), ("redis", redis)):
            if isinstance(answer, StoreUnavailable):
                away.append(name)
            elif isinstance(answer, BaseException):
                raise answer
        if isinstance(redis, Epoch) and redis.opens_in_s > 0:
            away.append("counters")
        return away
