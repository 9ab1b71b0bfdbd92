"""Asks every backend what it hosts, and publishes the answer as one snapshot.

A backend that does not answer keeps its last word for MODEL_DISCOVERY_CACHE_TTL_S, so that a short outage is left to
Envoy's fail-over instead of making its models vanish. When nobody has a word left, the snapshot expires: 503.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import structlog

from gateway.errors import StoreUnavailable
from gateway.settings import Backend, Settings
from gateway.stores.catalog import CatalogStore
from ops.control.merge import Observation, merge

log = structlog.get_logger()

ANSWER_BYTES_MAX = 8 * 1024 * 1024
ANSWER_TIMEOUT_S = 10.0


class ProbeError(Exception):
    """A backend's answer is missing or is no Ollama's; the text says which in one sentence, without a secret."""


class Prober:
    """Asks one backend with exactly the headers and the TLS trust that Envoy uses for it."""

    def __init__(self, session: aiohttp.ClientSession, connect_timeout_s: float) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=connect_timeout_s)

    async def observe(self, backend: Backend) -> Observation:
        """Version, models and running models, from the first replica that answers. Raises ProbeError."""
        problem = ProbeError(f"backend {backend.name} has no address")
        for url in backend.urls:
            try:
                version, tags, running = await asyncio.gather(
                    self._get(backend, url, "/api/version"),
                    self._get(backend, url, "/api/tags"),
                    self._get(backend, url, "/api/ps"),
                )
            except ProbeError as error:
                problem = error
                continue
            return Observation(backend, _text(version.get("version")), _rows(tags), _rows(running))
        raise problem

    async def _get(self, backend: Backend, url: str, path: str) -> dict[str, Any]:
        credential = backend.credential()
        headers = {credential[0]: credential[1].get_secret_value()} if credential else {}
        try:
            async with self._session.get(
                url + path, headers=headers, timeout=self._timeout, ssl=_trust(backend), allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise ProbeError(f"{url}{path} answered {answer.status}")
                document = json.loads(await _bounded_body(answer))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ProbeError(f"{url}{path} did not answer: {type(error).__name__}") from error
        if not isinstance(document, dict):
            raise ProbeError(f"{url}{path} is not an Ollama: its answer is no JSON object")
        return document


async def _bounded_body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise ProbeError(f"{answer.url} answered more than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


class Discovery:
    """`refresh` runs once; `run` repeats it every MODEL_DISCOVERY_REFRESH_S, sooner while a backend is away."""

    def __init__(
        self, settings: Settings, prober: Prober, store: CatalogStore, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._prober = prober
        self._store = store
        self._monotonic = monotonic
        self._last: dict[str, tuple[float, Observation]] = {}
        self._wanted = asyncio.Event()

    def at_once(self) -> None:
        """The next refresh comes now: the store may have lost the snapshot."""
        self._wanted.set()

    async def refresh(self) -> bool:
        """Asks all backends in parallel and publishes what is known. True when every backend answered."""
        backends = self._settings.backends
        answers = await asyncio.gather(*(self._prober.observe(b) for b in backends), return_exceptions=True)
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
        ttl_s = self._settings.model_discovery_cache_ttl_s
        fresh = [
            self._last[b.name][1] for b in backends if b.name in self._last and now - self._last[b.name][0] < ttl_s
        ]
        if fresh:
            await self._store.publish(merge(fresh), ttl_s)
        return complete

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


def _trust(backend: Backend) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=str(backend.ca_file)) if backend.ca_file else True


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _rows(document: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    rows = document.get("models")
    return tuple(row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
