"""Asks every backend what it hosts, and publishes the answer as one snapshot.

A backend that does not answer keeps its last word for MODEL_DISCOVERY_CACHE_TTL_S, so that a short outage is left to
Envoy's fail-over instead of making its models vanish. When nobody has a word left, the snapshot expires: 503.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import structlog

from gateway.catalog import Catalog
from gateway.errors import StoreUnavailable
from gateway.running import cancel
from gateway.settings import Backend, Settings
from gateway.stores.catalog import CatalogStore
from ops.control.merge import Observation, merge
from ops.ollama_probe import OllamaClient, ProbeError

log = structlog.get_logger()

# How long the models of a new backend hold up what is known of the others.
FIRST_LOOK_S = 1.0


class Prober:
    """Asks one backend with exactly the headers and the TLS trust that Envoy uses for it."""

    def __init__(self, session: aiohttp.ClientSession, connect_timeout_s: float) -> None:
        self._client = OllamaClient(session, connect_timeout_s)

    async def observe(self, backend: Backend) -> Observation:
        """Version, models and running models, from the first replica that answers. Raises ProbeError."""
        problem = ProbeError(f"backend {backend.name} has no address")
        for url in backend.urls:
            try:
                version, tags, running = await asyncio.gather(
                    self._client.ask(backend, url, "/api/version"),
                    self._client.ask(backend, url, "/api/tags"),
                    self._client.ask(backend, url, "/api/ps"),
                )
            except ProbeError as error:
                problem = error
                continue
            return Observation(backend, _text(version.get("version")), _rows(tags), _rows(running))
        raise problem


class Discovery:
    """`refresh` runs once; `run` repeats it every MODEL_DISCOVERY_REFRESH_S, sooner while a backend is away."""

    def __init__(
        self,
        settings: Settings,
        prober: Prober,
        store: CatalogStore,
        monotonic: Callable[[], float] = time.monotonic,
        first_look_s: float = FIRST_LOOK_S,
    ) -> None:
        self._settings = settings
        self._prober = prober
        self._store = store
        self._monotonic = monotonic
        self._backends = settings.backends
        self._last: dict[str, tuple[float, Observation]] = {}
        self._wanted = asyncio.Event()
        self._first_look_s = first_look_s
        self._publishing = asyncio.Lock()

    def at_once(self) -> None:
        """The next refresh comes now: the store may have lost the snapshot."""
        self._wanted.set()

    async def use(self, backends: tuple[Backend, ...]) -> None:
        """Publishes these backends, in this order, and asks them from now on; no other is published afterwards.

        What is known of a backend stays known while one of its addresses does. Raises StoreUnavailable; it may be
        called again with the same backends.
        """
        before, self._last = self._last, {}
        self._backends = backends
        for backend in backends:
            at, seen = before.get(backend.name, (0.0, None))
            if seen is not None and set(seen.backend.urls) & set(backend.urls):
                self._last[backend.name] = (at, replace(seen, backend=backend))
        unseen = [backend for backend in backends if backend.name not in self._last]
        looks = [asyncio.create_task(self._prober.observe(backend)) for backend in unseen]
        try:
            if looks:
                await asyncio.wait(looks, timeout=self._first_look_s)
            for backend, look in zip(unseen, looks, strict=True):
                if look.done() and look.exception() is None:
                    self._last[backend.name] = (self._monotonic(), look.result())
        finally:
            await cancel(looks)
        await self._publish(backends)
        self.at_once()

    async def refresh(self) -> bool:
        """Asks all backends in parallel and publishes what is known. True when every backend answered."""
        backends = self._backends
        answers = await asyncio.gather(*(self._prober.observe(b) for b in backends), return_exceptions=True)
        if backends is not self._backends:
            return True
        now = self._monotonic()
        complete = True
        for backend, answer in zip(backends, answers, strict=True):
            if isinstance(answer, Observation):
                self._last[backend.name] = (now, answer)
            elif isinstance(answer, ProbeError):
                complete = False
                log.warning("backend_not_seen", backend=backend.name, reason=str(answer))
            else:
                raise answer
        await self._publish(backends)
        return complete

    async def _publish(self, backends: tuple[Backend, ...]) -> None:
        """What is known of them, unless others have taken their place by now.

        When nothing is known, the snapshot is left to expire; but one that names a backend which has gone gives way to
        one that says so.
        """
        ttl_s, now = self._settings.model_discovery_cache_ttl_s, self._monotonic()
        async with self._publishing:
            if backends is not self._backends:
                return
            fresh = [
                self._last[b.name][1] for b in backends if b.name in self._last and now - self._last[b.name][0] < ttl_s
            ]
            if fresh:
                await self._store.publish(merge(fresh, allow_cloud=self._settings.allow_cloud_models), ttl_s)
            elif await self._names_another(backends):
                await self._store.publish(Catalog(backends=(), models={}), ttl_s)

    async def _names_another(self, backends: tuple[Backend, ...]) -> bool:
        snapshot = await self._store.fetch(unless_version="")
        published = snapshot.catalog.backends if snapshot and snapshot.catalog else ()
        return not {state.name for state in published} <= {backend.name for backend in backends}

    async def run(self) -> None:
        """For ever; a store that is away is retried."""
        while True:
            pause_s = self._settings.model_discovery_refresh_s
            try:
                if not await self.refresh():
                    pause_s = min(pause_s, 2.0)
            except StoreUnavailable as error:
                log.warning("snapshot_not_published", reason=str(error))
                pause_s = min(pause_s, 0.5)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()
            self._wanted.clear()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _rows(document: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    rows = document.get("models")
    return tuple(row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
