"""Probes of running servers. Each is bounded by a timeout, and a server that does not answer in time counts as down."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

Probe = Callable[[], Awaitable[bool]]

_TIMEOUT_S = 1.0
_POLL_S = 0.1
_FAILURES = (OSError, TimeoutError, aiohttp.ClientError)


def always_ready() -> Probe:
    """For a server that has nothing to probe: it is ready once it runs."""

    async def ready() -> bool:
        return True

    return ready


def accepts_connections(*addresses: str) -> Probe:
    """Whether each of these sockets, written as `unix:/path`, accepts connections."""

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


def returns_ok(url: str, *, unix: str | None = None, ca_file: Path | None = None) -> Probe:
    """Whether a GET of `url` returns 200. `unix` names a socket to use; `ca_file` verifies an https URL."""

    async def ready() -> bool:
        return (await get(url, unix=unix, ca_file=ca_file))[0] == 200

    return ready


def responds(url: str, ca_file: Path) -> Probe:
    """Whether a GET of an https URL returns any status, verified against `ca_file`."""

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
    """Status and text of one request; (0, "") when no answer arrives in time."""
    connector = aiohttp.UnixConnector(unix.removeprefix("unix:")) if unix else aiohttp.TCPConnector()
    try:
        trust = ssl.create_default_context(cafile=ca_file) if ca_file else True
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(timeout_s)) as session,
            session.request(method, url, ssl=trust) as response,
        ):
            return response.status, await response.text()
    except _FAILURES:
        return 0, ""


async def envoy_responds(admin: str) -> bool:
    """Whether an Envoy serves its admin interface at `admin`, written as `HOST:PORT` or `unix:/path`."""
    origin, unix = split_listen(admin)
    return (await get(f"{origin}/ready", unix=unix))[0] != 0


def envoy_drain(admin: str, timeout_s: float) -> Callable[[], Awaitable[None]]:
    """Returns a function that makes Envoy refuse new connections and waits for the requests in flight.

    It waits at most `timeout_s`. `admin` is the address of Envoy's admin interface, `HOST:PORT` or `unix:/path`.
    """
    origin, unix = split_listen(admin)

    async def drain() -> None:
        await get(f"{origin}/drain_listeners", unix=unix, method="POST")
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            _, text = await get(f"{origin}/stats?filter=downstream_rq_active", unix=unix)
            counts = (line.rpartition(": ") for line in text.splitlines() if not line.startswith("http.admin."))
            if not any(count.isdecimal() and int(count) for _, _, count in counts):
                return
            await asyncio.sleep(_POLL_S)

    return drain


def split_listen(listen: str) -> tuple[str, str | None]:
    """`HOST:PORT` or `unix:/path` as the origin of its URLs and the socket to use, None for TCP; see `get`."""
    return ("http://localhost", listen) if listen.startswith("unix:") else (f"http://{listen}", None)
