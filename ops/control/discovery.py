"""Queries every backend for its models, and publishes the answers as one snapshot.

The last observation of a backend that does not answer stays valid for MODEL_DISCOVERY_CACHE_TTL_S, so that a short
outage is left to Envoy's fail-over instead of making its models vanish. When no observation is valid any more and every
query fails, the snapshot states that no backend answers. Otherwise it expires, and requests receive 503.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from gateway.catalog.snapshot import BackendState, Catalog
from gateway.catalog.store import CatalogStore
from gateway.loops import forever
from gateway.service.lifecycle import cancel
from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.wire.timeouts import BACKEND_RETRY_S
from ops.backends.findings import Finding, findings
from ops.backends.probe import ProbeError
from ops.control.description import described
from ops.control.merge import Observation, first_hosts, merge
from ops.control.prober import Prober

log = structlog.get_logger()

# The observations of fast backends are published after this time, without waiting for slower ones.
FIRST_PUBLISH_S = 1.0
# The longest interval while a backend does not answer.
RETRY_S = float(BACKEND_RETRY_S)
DESCRIPTIONS_AT_ONCE = 4
DESCRIPTIONS_TIMEOUT_S = 30.0

Probes = Mapping[str, "asyncio.Task[Observation]"]


class Discovery:
    """`refresh` runs once. `run` repeats it every MODEL_DISCOVERY_REFRESH_S, sooner while a backend does not answer."""

    def __init__(
        self,
        settings: Settings,
        prober: Prober,
        store: CatalogStore,
        monotonic: Callable[[], float] = time.monotonic,
        first_publish_s: float = FIRST_PUBLISH_S,
    ) -> None:
        self._settings = settings
        self._prober = prober
        self._store = store
        self._monotonic = monotonic
        self._backends = settings.backends
        self._last: dict[str, tuple[float, Observation]] = {}
        self._failed: set[str] = set()
        self._descriptions: dict[str, Mapping[str, Any]] = {}
        self._reported: frozenset[Finding] = frozenset()
        self._published_at: float | None = None
        self._wake = asyncio.Event()
        self._first_publish_s = first_publish_s
        self._publishing = asyncio.Lock()

    def at_once(self) -> None:
        """Refreshes now, because the store may have lost the snapshot."""
        self._wake.set()

    async def use(self, backends: tuple[Backend, ...]) -> None:
        """Publishes these backends, in this order, and queries them from now on. No other is published afterwards.

        The last observation of a backend stays valid if one of its addresses is unchanged. Raises StoreUnavailable;
        then it may be called again with the same backends.
        """
        before, self._last = self._last, {}
        self._backends = backends
        for backend in backends:
            at, seen = before.get(backend.name, (0.0, None))
            if seen is not None and set(seen.backend.urls) & set(backend.urls):
                self._last[backend.name] = (at, replace(seen, backend=backend))
        probes = self._probe(backend for backend in backends if backend.name not in self._last)
        try:
            if probes:
                await asyncio.wait(probes.values(), timeout=self._first_publish_s)
            self._note({name: probe for name, probe in probes.items() if probe.done()})
        finally:
            await cancel(probes.values())
        await self._publish(backends)
        self.at_once()

    @property
    def current(self) -> bool:
        """Whether a snapshot that this process published has not expired."""
        ttl_s = self._settings.model_discovery_cache_ttl_s
        return self._published_at is not None and self._monotonic() - self._published_at < ttl_s

    @property
    def age_s(self) -> float:
        """The seconds since the last publication, NaN before the first one."""
        return math.nan if self._published_at is None else self._monotonic() - self._published_at

    @property
    def states(self) -> list[BackendState]:
        """The state of every backend in use. A backend that has never answered does not answer."""
        return [
            BackendState(
                backend.name,
                len(backend.urls),
                seen.version if seen else None,
                answers=seen is not None and seen.answers,
            )
            for backend in self._backends
            for _, seen in [self._last.get(backend.name, (0.0, None))]
        ]

    @property
    def names(self) -> frozenset[str]:
        """The names of the backends in use."""
        return frozenset(backend.name for backend in self._backends)

    async def refresh_backend(self, name: str) -> None:
        """Queries one backend and publishes its observation with the last ones of the others.

        Raises StoreUnavailable.
        """
        backends = self._backends
        probes = self._probe(backend for backend in backends if backend.name == name)
        try:
            if probes:
                await asyncio.wait(probes.values())
        finally:
            await cancel(probes.values())
        if backends is self._backends:
            self._note(probes)
            await self._publish(backends)

    async def refresh(self) -> bool:
        """Queries all backends in parallel and publishes their observations. True when every backend answered."""
        backends, complete = self._backends, True
        probes = self._probe(backends)
        try:
            _, late = await asyncio.wait(probes.values(), timeout=self._first_publish_s)
            if late and backends is self._backends:
                complete = self._note({name: probe for name, probe in probes.items() if probe not in late})
                await self._publish(backends)
                probes = {name: probe for name, probe in probes.items() if probe in late}
                await asyncio.wait(late)
        finally:
            await cancel(probes.values())
        if backends is not self._backends:
            return True
        complete &= self._note(probes)
        await self._publish(backends)
        if await self._describe():
            await self._publish(backends)
        return complete

    def _probe(self, backends: Iterable[Backend]) -> dict[str, asyncio.Task[Observation]]:
        return {backend.name: asyncio.create_task(self._prober.observe(backend)) for backend in backends}

    def _note(self, probes: Probes) -> bool:
        """Stores the observations. True when every probe succeeded."""
        complete = True
        for name, probe in probes.items():
            try:
                self._last[name] = (self._monotonic(), probe.result())
                self._failed.discard(name)
            except ProbeError as error:
                complete = False
                self._failed.add(name)
                log.warning("backend_unavailable", backend=name, reason=str(error))
                if name in self._last:
                    at, last = self._last[name]
                    self._last[name] = (at, replace(last, answers=False))
        return complete

    def _fresh(self, backends: tuple[Backend, ...]) -> list[Observation]:
        """The valid observations of these backends, in their order."""
        oldest = self._monotonic() - self._settings.model_discovery_cache_ttl_s
        known = (self._last.get(backend.name) for backend in backends)
        return [seen for at, seen in filter(None, known) if at > oldest]

    async def _publish(self, backends: tuple[Backend, ...]) -> None:
        """Publishes the valid observations, unless other backends have replaced these by now.

        Without any, a snapshot that names a removed backend is replaced by an empty one, and any other expires.
        After that a snapshot states that no backend answers, if each was queried in vain.
        """
        ttl_s = self._settings.model_discovery_cache_ttl_s
        async with self._publishing:
            if backends is not self._backends:
                return
            if fresh := self._fresh(backends):
                catalog = merge(fresh, self._descriptions, allow_cloud=self._settings.allow_cloud_models)
                await self._store.publish(catalog, ttl_s)
                self._published_at = self._monotonic()
                self._report(frozenset(findings(catalog)))
            else:
                await self._publish_absence(backends, ttl_s)

    def _report(self, found: frozenset[Finding]) -> None:
        """Logs each finding once, until the findings change."""
        for finding in found - self._reported:
            log.warning(finding.kind, subject=finding.subject, reason=finding.text, remedy=finding.remedy)
        self._reported = found

    async def _publish_absence(self, backends: tuple[Backend, ...], ttl_s: float) -> None:
        snapshot = await self._store.fetch(unless_version="")
        published = snapshot.catalog if snapshot and snapshot.catalog else Catalog(backends=(), models={})
        names = {backend.name for backend in backends}
        if not {state.name for state in published.backends} <= names:
            absence = Catalog(backends=(), models={})
        elif not published.models and self._failed >= names:
            absence = merge([_silent(backend) for backend in backends])
        else:
            return
        await self._store.publish(absence, ttl_s)
        self._published_at = None

    async def _describe(self) -> bool:
        """Fetches the details that /api/tags omits, once for each digest. True when there are new ones."""
        hosts = first_hosts(self._fresh(self._backends))
        self._descriptions = {digest: self._descriptions[digest] for digest in hosts if digest in self._descriptions}
        before = len(self._descriptions)
        slots = asyncio.Semaphore(DESCRIPTIONS_AT_ONCE)

        async def describe(digest: str) -> None:
            async with slots:
                try:
                    self._descriptions[digest] = described(await self._prober.show(*hosts[digest]))
                except ProbeError as error:
                    log.warning("model_not_described", model=hosts[digest][1], reason=str(error))

        try:
            async with asyncio.timeout(DESCRIPTIONS_TIMEOUT_S):
                await asyncio.gather(*(describe(digest) for digest in hosts.keys() - self._descriptions.keys()))
        except TimeoutError:
            log.warning("models_not_described", reason=f"not all within {DESCRIPTIONS_TIMEOUT_S:.0f} s")
        return len(self._descriptions) > before

    async def run(self) -> None:
        """Refreshes until cancelled, more often while a backend does not answer."""
        await forever(
            self._step, self._settings.model_discovery_refresh_s, on_error="snapshot_not_published", wake=self._wake
        )

    async def _step(self) -> float | None:
        return None if await self.refresh() else min(self._settings.model_discovery_refresh_s, RETRY_S)


def _silent(backend: Backend) -> Observation:
    return Observation(backend, None, (), (), answers=False)
