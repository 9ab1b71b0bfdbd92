from __future__ import annotations

import httpx
import pytest
from aiohttp import web

from gateway.service import http_server
from tests.ports import free_port


async def test_a_broken_compressed_body_that_no_handler_reads_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=400)

    application = web.Application()
    application.router.add_post("/", refuse)
    runner = http_server.runner_of(application)
    address = f"127.0.0.1:{free_port()}"
    await http_server.start(runner, address)
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(2):
                answer = await client.post(
                    f"http://{address}/", content=b"no gzip at all" * 9999, headers={"Content-Encoding": "gzip"}
                )
                assert answer.status_code == 400
    finally:
        await runner.cleanup()
    assert caplog.text == ""


@pytest.mark.parametrize("place", ["path", "header"])
async def test_the_longest_request_that_envoy_accepts_is_accepted(caplog: pytest.LogCaptureFixture, place: str) -> None:
    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(request.path) + len(request.headers.get("X-Long", ""))))

    application = web.Application()
    application.router.add_get("/{path:.*}", length)
    runner = http_server.runner_of(application)
    address = f"127.0.0.1:{free_port()}"
    await http_server.start(runner, address)
    try:
        async with httpx.AsyncClient() as client:
            long = "a" * 32_000
            path, headers = (f"/{long}", {}) if place == "path" else ("/", {"X-Long": long})
            answer = await client.get(f"http://{address}{path}", headers=headers)
    finally:
        await runner.cleanup()
    assert (answer.status_code, answer.text) == (200, "32001")
    assert caplog.text == ""
