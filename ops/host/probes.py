"""Small questions to running servers, each answered in time, as a rule within a second, or counted as a no."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

Probe = Callable[[], Awaitable[bool]]

_TIMEOUT_S = 1.0
_FAILURES = (OSError, TimeoutError, aiohttp.ClientError)


def always() -> Probe:
    """For a child that has nothing to be asked: ready once it runs."""

    async def ready() -> bool:
        return True

    return ready


def accepts(*addresses: str) -> Probe:
    """Whether every `unix:/path` takes connections."""

    async def ready() -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                for address in addresses:
                    _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
                    writer.close()
        except _FAILURES:
            return False
        return True

    return ready


def answers(url: str, *, unix: str | None = None, ca_file: Path | None = None) -> Probe:
    """Whether a GET of `url` gives 200, over a unix socket if one is named; `ca_file` verifies an https URL."""

    async def ready() -> bool:
        return (await get(url, unix=unix, ca_file=ca_file))[0] == 200

    return ready


def answers_at_all(url: str, ca_file: Path) -> Probe:
    """Whether an https URL gives any answer, verified against `ca_file`."""

    async def ready() -> bool:
        return ca_file.exists() and (await get(url, ca_file=ca_file))[0] != 0

    return ready


async def get(
    url: str,
    *,
    unix: str | None = None,
    ca_file: Path | None = None,
    method: str = "GET",
    timeout_s: float = _TIMEOUT_S,
) -> tuple[int, str]:
    """Status and text of one request; (0, "") when there was no answer in time."""
    connector = aiohttp.UnixConnector(unix.removeprefix("unix:")) if unix else aiohttp.TCPConnector()
    trust = ssl.create_default_context(cafile=ca_file) if ca_file else True
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(timeout_s)) as session,
            session.request(method, url, ssl=trust) as response,
        ):
            return response.status, await response.text()
    except _FAILURES:
        return 0, ""


async def envoy_answers(admin: str) -> bool:
    """Whether an Envoy has its admin interface at `admin`, `HOST:PORT` or `unix:/path`."""
    base, unix = place(admin)
    return (await get(f"{base}/ready", unix=unix))[0] != 0


def envoy_drain(admin: str, patience_s: float) -> Callable[[], Awaitable[None]]:
    """Lets Envoy refuse new connections and waits, at most `patience_s`, for the requests in flight.

    `admin` is `HOST:PORT` or `unix:/path`.
    """
    base, unix = place(admin)

    async def drain() -> None:
        await get(f"{base}/drain_listeners", unix=unix, method="POST")
        deadline = asyncio.get_running_loop().time() + patience_s
        while asyncio.get_running_loop().time() < deadline:
            _, text = await get(f"{base}/stats?filter=downstream_rq_active", unix=unix)
            counts = (line.rpartition(": ") for line in text.splitlines() if not line.startswith("http.admin."))
            if not any(count.isdecimal() and int(count) for _, _, count in counts):
                return
            await asyncio.sleep(0.1)

    return drain


def place(listen: str) -> tuple[str, str | None]:
    """The origin of what listens on `HOST:PORT` or `unix:/path`, and the socket if it is one, as `get` takes them."""
    return ("http://localhost", listen) if listen.startswith("unix:") else (f"http://{listen}", None)
