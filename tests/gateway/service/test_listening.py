from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import CannotListen
from gateway.rpc.grpcio import GrpcioServer
from gateway.rpc.nghttp2.server import Nghttp2Server
from gateway.service import http_server
from gateway.service.listening import private_socket, try_bind

Serve = Callable[[str], Coroutine[Any, Any, None]]


async def _grpcio(listen: str) -> None:
    await GrpcioServer((), 1024).start(listen)


async def _nghttp2(listen: str) -> None:
    await Nghttp2Server((), 1024).start(listen)


async def _http(listen: str) -> None:
    runner = http_server.runner_of(web.Application())
    try:
        await http_server.start(runner, listen)
    finally:
        await runner.cleanup()


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("serve", [_grpcio, _nghttp2, _http])
async def test_the_reason_of_a_failed_bind_is_reported(serve: Serve, taken: str, tmp_path: Path) -> None:
    reasons = {
        taken: "address already in use",
        # RFC 5737: documentation only, so that no host has it.
        "192.0.2.1:9001": "the address is not available on this host",
        f"unix:{tmp_path}/missing/a.sock": "no such file or directory",
        "host.invalid:9001": "the host name cannot be resolved",
    }
    reported = {}
    for listen in reasons:
        with pytest.raises(CannotListen) as failed:
            await serve(listen)
        reported[listen] = str(failed.value)
    assert reported == {listen: f"cannot listen on {listen}: {reason}" for listen, reason in reasons.items()}


def test_trying_an_address_that_is_free_leaves_nothing(tmp_path: Path) -> None:
    assert try_bind(f"unix:{tmp_path}/a.sock") is None
    assert list(tmp_path.iterdir()) == []


async def test_a_stale_socket_is_replaced_by_a_private_one(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.touch()
    with private_socket(f"unix:{path}"):
        server = await asyncio.start_unix_server(lambda _reader, _writer: None, path)
    server.close()
    assert path.stat().st_mode & 0o777 == 0o600
