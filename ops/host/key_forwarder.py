"""A forwarder on loopback that adds a key, for clients that cannot send one, such as Ollama's own command line."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import SecretStr

from ops.host.addresses import is_loopback

CONNECT_TIMEOUT_S = 10.0
RUNNING = "Ollama is running"
# Headers of one connection (RFC 9110, 7.6.1), and credentials, which the key replaces.
_NOT_FORWARDED = frozenset(
    "connection content-length host keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    "transfer-encoding upgrade authorization x-api-key cookie".split()
)
_NOT_RETURNED = frozenset("connection keep-alive proxy-authenticate trailer transfer-encoding upgrade".split())


class KeyForwarder:
    """Forwards requests to the gateway at `url`, with `key`. `trust` verifies an https URL.

    Only programs of this machine may use the key: pages in a browser send `Origin`, and a name that an attacker lets
    resolve to loopback is in `Host`. Both are refused.
    """

    def __init__(self, url: str, key: SecretStr, trust: ssl.SSLContext | bool) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._trust = trust

    def application(self) -> web.Application:
        """The application to serve on a loopback address."""
        application = web.Application()
        application.cleanup_ctx.append(self._session)
        application.router.add_get("/", self._root)
        application.router.add_route("*", "/{path:.*}", self._forward)
        return application

    async def _session(self, _application: web.Application) -> AsyncIterator[None]:
        # An answer may take as long as the model needs.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._client:
            yield

    async def _root(self, request: web.Request) -> web.Response:
        return _refused(request) or web.Response(text=RUNNING)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if (refused := _refused(request)) is not None:
            return refused
        try:
            async with self._sent(request) as received:
                return await _returned(request, received)
        except aiohttp.ClientConnectionError as error:
            return _error(502, f"the gateway at {self._url} cannot be reached: {error}")

    @asynccontextmanager
    async def _sent(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = _without(request.headers, _NOT_FORWARDED)
        headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        if request.content_length is not None:
            headers["Content-Length"] = str(request.content_length)
        async with self._client.request(
            request.method,
            f"{self._url}{request.raw_path}",
            headers=headers,
            data=request.content if request.can_read_body else None,
            ssl=self._trust,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as received:
            yield received


async def _returned(request: web.Request, received: aiohttp.ClientResponse) -> web.StreamResponse:
    # Ollama's command line takes a 401 for a missing account at ollama.com, and does not show its text.
    status = 403 if received.status == 401 else received.status
    answer = web.StreamResponse(status=status, headers=_without(received.headers, _NOT_RETURNED))
    await answer.prepare(request)
    try:
        async for chunk in received.content.iter_any():
            await answer.write(chunk)
        await answer.write_eof()
    except aiohttp.ClientError:
        # The gateway broke the answer off, and so does this.
        if request.transport is not None:
            request.transport.abort()
    return answer


def _without(headers: CIMultiDictProxy[str], names: frozenset[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in names)


def _refused(request: web.Request) -> web.Response | None:
    if "Origin" in request.headers:
        return _error(403, "this forwarder serves programs of this machine, not web pages")
    host = urlsplit(f"//{request.host}").hostname or ""
    if host != "localhost" and not (_is_address(host) and is_loopback(host)):
        return _error(403, "this forwarder serves loopback addresses only; use http://127.0.0.1 or http://localhost")
    return None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
