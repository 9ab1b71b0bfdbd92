"""Reports to `control` each backend that no longer has a model of the catalog, as its 404 in an audit row shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.catalog.store import CatalogStore
from gateway.errors import Code
from gateway.loops import forever
from gateway.record.entry import Entry

_EVERY_S = 60.0


class MissingModels:
    """The backends to report, each once however many rows name it. `note` is called with new audit rows."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._backends: set[str] = set()
        self._wake = asyncio.Event()

    def note(self, entries: Sequence[Entry]) -> None:
        """Looks for answers of backends that lack a model. A denial by the gateway itself has no backend."""
        found = {entry.backend for entry in entries if entry.backend and entry.code == Code.MODEL_NOT_ALLOWED}
        if found:
            self._backends |= found
            self._wake.set()

    async def run(self) -> None:
        """Reports until cancelled. While Redis is unavailable the backends wait."""
        await forever(self._report, _EVERY_S, on_error="missing_models_not_reported", wake=self._wake)

    async def _report(self) -> None:
        while self._backends:
            backend = next(iter(self._backends))
            await self._store.report_missing(backend)
            self._backends.discard(backend)
