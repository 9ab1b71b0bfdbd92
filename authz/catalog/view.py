"""This process's copy of the catalog: told of changes by Redis, trusted only as long as the snapshot lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from gateway.catalog.snapshot import Catalog
from gateway.catalog.store import CatalogStore
from gateway.catalog.timing import POLL_S
from gateway.errors import StoreUnavailable

log = structlog.get_logger()

RETRY_S = 0.5


class CatalogView:
    """`current` is the catalog; `run` keeps it fresh."""

    def __init__(self, store: CatalogStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._catalog: Catalog | None = None
        self._version = ""
        self._expires = float("-inf")

    def current(self) -> Catalog:
        """The catalog. Raises StoreUnavailable when there is none yet, it is too old or it names no backend."""
        if self._catalog is None or not self.known:
            raise StoreUnavailable("what the backends host is not known")
        return self._catalog

    @property
    def known(self) -> bool:
        """Whether `current` has an answer."""
        return bool(self._catalog and self._catalog.backends) and self._monotonic() < self._expires

    async def refresh(self) -> None:
        """Looks whether there is a newer snapshot, and takes it. Raises StoreUnavailable."""
        asked = self._monotonic()
        snapshot = await self._store.fetch(unless_version=self._version)
        if snapshot is None:
            # It expired, and then so does the copy, or Redis lost it: the copy is as good as it was.
            return
        self._expires = asked + snapshot.ttl_s
        if snapshot.catalog is not None:
            self._catalog, self._version = snapshot.catalog, snapshot.version

    async def run(self) -> None:
        """For ever; while Redis is away the copy ages and then expires."""
        while True:
            try:
                async with self._store.changes() as next_change:
                    while True:
                        await self.refresh()
                        await next_change(POLL_S)
            except StoreUnavailable as error:
                log.warning("catalog_not_refreshed", reason=str(error))
            await asyncio.sleep(RETRY_S)
