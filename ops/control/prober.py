"""The queries of discovery to a backend, with exactly the headers and the TLS trust that Envoy uses for it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from gateway.settings.backend import Backend
from ops.backends.probe import OllamaClient, ProbeError
from ops.control.merge import Observation


class Prober:
    """Queries the replicas of a backend one after another, until one answers for all."""

    def __init__(self, session: aiohttp.ClientSession, connect_timeout_s: float) -> None:
        self._client = OllamaClient(session, connect_timeout_s)

    async def observe(self, backend: Backend) -> Observation:
        """Version, models and running models. Raises ProbeError."""
        problem = ProbeError(f"backend {backend.name} has no address")
        for url in backend.urls:
            try:
                version, tags, running = await asyncio.gather(
                    self._client.query(backend, url, "/api/version"),
                    self._client.query(backend, url, "/api/tags"),
                    self._client.query(backend, url, "/api/ps"),
                )
            except ProbeError as error:
                problem = error
                continue
            return Observation(backend, _text(version.get("version")), _rows(tags), _rows(running))
        raise problem

    async def show(self, backend: Backend, model: str) -> dict[str, Any]:
        """The answer of /api/show for a model, including the operator's texts. Raises ProbeError."""
        problem = ProbeError(f"backend {backend.name} has no address")
        for url in backend.urls:
            try:
                return await self._client.query(backend, url, "/api/show", {"model": model})
            except ProbeError as error:
                problem = error
        raise problem


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _rows(document: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    rows = document.get("models")
    return tuple(row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
