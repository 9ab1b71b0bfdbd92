"""Whether a process has what it needs right now: what `/readyz` says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.errors import StoreUnavailable
from gateway.quota.port import Epoch, Quota
from gateway.stores.postgres import Database


class Readiness:
    """Asks every dependency of a process; each has its own deadline. `backends_known` needs no I/O."""

    def __init__(self, database: Database, quota: Quota, backends_known: Callable[[], bool]) -> None:
        self._database = database
        self._quota = quota
        self._backends_known = backends_known

    async def missing(self) -> list[str]:
        """Names of what is missing: any of `postgresql`, `redis`, `counters`, `backends`.

        The counters are missing for a moment behind a restart of Redis; see `gateway.quota.port.RESTORE_S`.
        """
        postgresql, redis = await asyncio.gather(self._database.ping(), self._quota.epoch(), return_exceptions=True)
        missing = []
        for name, answer in (("postgresql", postgresql), ("redis", redis)):
            if isinstance(answer, StoreUnavailable):
                missing.append(name)
            elif isinstance(answer, BaseException):
                raise answer
        if isinstance(redis, Epoch) and redis.opens_in_s > 0:
            missing.append("counters")
        return missing if self._backends_known() else [*missing, "backends"]
