"""The real Caddy with the project's Caddyfile and a small upstream server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.settings import Settings
from ops.embedded import services
from ops.embedded.options import HostPort
from ops.embedded.state import open_state
from ops.embedded.supervisor import Supervisor
from tests.ports import free_port

LOOPBACK = "127.0.0.1"


@dataclass
class Edge:
    """A running Caddy: its URL, a client that trusts its authority, and the requests that the upstream received.

    The upstream sends the second chunk of `/stream` once `more` is set.
    """

    url: str
    client: aiohttp.ClientSession
    received: list[web.Request]
    more: asyncio.Event


@asynccontextmanager
async def _upstream(address: HostPort, received: list[web.Request], more: asyncio.Event) -> AsyncIterator[None]:
    async def plain(request: web.Request) -> web.Response:
        received.append(request)
        return web.Response(text="hello", headers={"Server": "secret/1.0", "X-Request-ID": "upstream"})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await more.wait()
        await response.write(b"second\n")
        return response

    application = web.Application()
    application.add_routes([web.get("/", plain), web.get("/stream", stream)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, address.host, address.port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    """Caddy with the configuration of `up --tls`."""
    upstream = HostPort(LOOPBACK, free_port())
    tls = HostPort(LOOPBACK, free_port())
    received: list[web.Request] = []
    more = asyncio.Event()
    with open_state(tmp_path / "state") as state:
        async with Supervisor(notice=lambda _: None) as supervisor, _upstream(upstream, received, more):
            await supervisor.start(services.caddy(Settings(gateway_shutdown_grace_s=1.0), state, tls, upstream))
            trust = ssl.create_default_context(cafile=services.authority_root(state))
            connector = aiohttp.TCPConnector(ssl=trust)
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as client:
                yield Edge(f"https://{tls}", client, received, more)


async def test_the_certificate_verifies_for_the_address_and_for_localhost(edge: Edge) -> None:
    for url in (edge.url, edge.url.replace(LOOPBACK, "localhost")):
        async with edge.client.get(url) as answer:
            assert (answer.status, await answer.text()) == (200, "hello")


async def test_a_client_without_the_authority_rejects_the_certificate(edge: Edge) -> None:
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.get(edge.url)


async def test_internal_headers_of_a_client_are_removed(edge: Edge) -> None:
    edge.received.clear()
    internal = {"x-nz-grant": "all", "X-Nz-Tenant": "1", "X-Envoy-Original-Path": "/x", "x-envoy-max-retries": "9"}
    async with edge.client.get(edge.url, headers={**internal, "X-Forwarded-For": "192.0.2.7", "X-Other": "kept"}):
        pass
    headers = edge.received[-1].headers
    assert not [name for name in headers if name.lower().startswith(("x-nz-", "x-envoy-"))]
    assert headers["X-Other"] == "kept"
    assert headers["X-Forwarded-For"] == LOOPBACK
    assert "Via" not in headers


async def test_responses_have_the_security_headers_and_no_server_name(edge: Edge) -> None:
    async with edge.client.get(edge.url) as answer:
        headers = answer.headers
    assert headers["Strict-Transport-Security"].startswith("max-age=")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not {"Server", "Via"} & headers.keys()
    assert headers["X-Request-ID"] == "upstream"


async def test_chunks_are_forwarded_before_the_response_ends(edge: Edge) -> None:
    async with edge.client.get(f"{edge.url}/stream") as answer:
        assert await answer.content.readline() == b"first\n"
        edge.more.set()
        assert await answer.content.readline() == b"second\n"


async def test_an_unreachable_envoy_is_a_503_in_the_dialect_of_the_path(tmp_path: Path) -> None:
    unreachable = HostPort(LOOPBACK, free_port())
    tls = HostPort(LOOPBACK, free_port())
    with open_state(tmp_path / "state") as state:
        async with Supervisor(notice=lambda _: None) as supervisor:
            await supervisor.start(services.caddy(Settings(gateway_shutdown_grace_s=1.0), state, tls, unreachable))
            trust = ssl.create_default_context(cafile=services.authority_root(state))
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client:
                bodies = {}
                for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
                    async with client.post(f"https://{tls}{path}", json={}) as answer:
                        assert answer.status == 503
                        assert answer.headers["X-Gateway-Error"] == "unavailable"
                        assert answer.headers["X-Request-ID"]
                        assert "Server" not in answer.headers
                        bodies[path] = await answer.json()
    assert isinstance(bodies["/api/chat"]["error"], str)
    assert bodies["/v1/chat/completions"]["error"]["code"] == "unavailable"
    assert bodies["/v1/messages"]["type"] == "error"
