"""Whether a request could be served now: what `/readyz` says."""

from __future__ import annotations

import asyncio

from authz.catalog_view import CatalogView
from gateway.errors import StoreUnavailable
from gateway.quota.port import Epoch, Quota
from gateway.stores.postgres import Database


class Readiness:
    """Asks every dependency of this process; each has its own deadline."""

    def __init__(self, database: Database, quota: Quota, catalog: CatalogView) -> None:
        self._database = database
        self._quota = quota
        self._catalog = catalog

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
        try:
            self._catalog.current()
        except StoreUnavailable:
            missing.append("backends")
        return missing
