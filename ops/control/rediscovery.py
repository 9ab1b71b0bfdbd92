"""Queries a backend again as soon as it has answered that it lacks a model of the catalog."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.catalog.store import POLL_S, CatalogStore
from gateway.loops import forever
from ops.control.discovery import Discovery

# The shortest time between two such queries of one backend. A report that comes sooner waits for its end.
PAUSE_S = 5.0


class Rediscovery:
    """Follows the reports of the meters. Without it the lists would show a removed model until the next refresh."""

    def __init__(
        self,
        store: CatalogStore,
        discovery: Discovery,
        pause_s: float = PAUSE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._discovery = discovery
        self._pause_s = pause_s
        self._monotonic = monotonic
        # By backend, when it may be queried, and those that wait for it.
        self._next: dict[str, float] = {}
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Follows the reports until cancelled. A lost report leaves the model to the next refresh."""
        await forever(self._follow, 0.0, on_error="missing_models_not_followed")

    async def _follow(self) -> None:
        async with self._store.missing_reports() as next_report:
            while True:
                backend = await next_report(self._wait_s())
                # A name that is not configured is none of the meters' backends any more.
                if backend in self._discovery.names:
                    self._reported.add(backend)
                for due in [name for name in self._reported if self._remaining_s(name) <= 0]:
                    self._reported.discard(due)
                    self._next[due] = self._monotonic() + self._pause_s
                    await self._discovery.refresh_backend(due)

    def _remaining_s(self, backend: str) -> float:
        return self._next.get(backend, 0.0) - self._monotonic()

    def _wait_s(self) -> float:
        return max(0.001, min([POLL_S, *map(self._remaining_s, self._reported)]))
