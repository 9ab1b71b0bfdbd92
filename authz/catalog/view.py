"""This process's copy of the catalog: Redis notifies it of changes, and it is valid only as long as the snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.catalog.snapshot import Catalog
from gateway.catalog.store import POLL_S, CatalogStore
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.loops import forever
from gateway.wire.timeouts import BACKEND_RETRY_S


class CatalogView:
    """`current` is the catalog; `run` keeps it fresh. `poll_s` covers notifications that were lost."""

    def __init__(
        self, store: CatalogStore, monotonic: Callable[[], float] = time.monotonic, poll_s: float = POLL_S
    ) -> None:
        self._store = store
        self._poll_s = poll_s
        self._monotonic = monotonic
        self._catalog: Catalog | None = None
        self._version = ""
        self._expires = float("-inf")

    def current(self) -> Catalog:
        """The catalog. Raises StoreUnavailable when there is none yet, it is too old or it names no backend.

        Raises Denied(backend_unavailable) when it states that no backend answers.
        """
        if self._catalog is None or not self._is_valid:
            raise StoreUnavailable("the models of the backends are not known")
        if self._catalog.is_unreachable:
            raise Denied(Code.BACKEND_UNAVAILABLE, retry_after_s=BACKEND_RETRY_S)
        return self._catalog

    @property
    def known(self) -> bool:
        """Whether `current` has an answer."""
        return self._is_valid and not (self._catalog and self._catalog.is_unreachable)

    @property
    def _is_valid(self) -> bool:
        return bool(self._catalog and self._catalog.backends) and self._monotonic() < self._expires

    @property
    def valid_s(self) -> float:
        """For how many seconds `current` still has an answer."""
        return max(self._expires - self._monotonic(), 0.0) if self.known else 0.0

    async def refresh(self) -> None:
        """Fetches the snapshot if there is a newer one. Raises StoreUnavailable."""
        requested_at = self._monotonic()
        snapshot = await self._store.fetch(unless_version=self._version)
        if snapshot is None:
            # The snapshot expired, and then so does the copy, or Redis lost it, and then the copy is still valid.
            return
        self._expires = requested_at + snapshot.ttl_s
        if snapshot.catalog is not None:
            self._catalog, self._version = snapshot.catalog, snapshot.version

    async def run(self) -> None:
        """Follows the snapshot until cancelled. While Redis is unavailable the copy ages and then expires."""
        await forever(self._follow, 0.0, on_error="catalog_not_refreshed")

    async def _follow(self) -> None:
        async with self._store.changes() as next_change:
            while True:
                await self.refresh()
                await next_change(self._poll_s)
