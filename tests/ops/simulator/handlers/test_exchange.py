"""The transport faults: what a client receives, and what the server records."""

from typing import Any

import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.inspection import inject, last_record
from tests.ops.simulator.raw_http import call, disconnect_when

STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", CHAT),
    ("/api/generate", {"model": "llama3.2", "prompt": "Say hello"}),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"model": "llama3.2", "prompt": "Say hello", "stream": True}),
    ("/v1/responses", {"model": "llama3.2", "input": "Say hello", "stream": True}),
    ("/v1/messages", {**CHAT, "max_tokens": 500, "stream": True}),
]
surfaces = pytest.mark.parametrize(("path", "body"), STREAMS, ids=[path for path, _ in STREAMS])


@surfaces
async def test_a_reset_before_the_headers_sends_no_byte(
    server: RunningSimulator, path: str, body: dict[str, Any]
) -> None:
    inject(server, "reset")
    with pytest.raises(ConnectionResetError):
        await call(server.url, path, body)
    assert last_record(server).finished == "failed"
    assert (last_record(server).status, last_record(server).frames) == (None, 0)


@surfaces
async def test_a_close_after_some_frames_sends_those_frames_and_no_end(
    server: RunningSimulator, path: str, body: dict[str, Any]
) -> None:
    inject(server, "close", after_frames=5)
    reply = await call(server.url, path, body)
    assert reply.status == 200
    assert reply.chunks is not None
    assert len(reply.chunks) == last_record(server).frames == 5
    assert reply.truncated


async def test_a_reset_within_the_body_reaches_the_client_as_a_reset(server: RunningSimulator) -> None:
    inject(server, "reset", after_frames=2)
    server.simulator.behaviour.tokens_per_s = 50
    reply = await call(server.url, "/api/chat", CHAT)
    assert (reply.truncated, reply.reset) == (True, True)
    assert last_record(server).finished == "failed"


async def test_a_close_before_the_headers_is_not_a_reset(server: RunningSimulator) -> None:
    inject(server, "close")
    with pytest.raises(EOFError):
        await call(server.url, "/api/chat", CHAT)


async def test_a_close_after_the_headers_sends_the_head_only(server: RunningSimulator) -> None:
    inject(server, "close", after_frames=0)
    reply = await call(server.url, "/api/chat", CHAT)
    assert (reply.status, reply.body, reply.truncated, reply.reset) == (200, b"", True, False)


async def test_a_close_truncates_a_whole_response_in_its_middle(server: RunningSimulator) -> None:
    inject(server, "close", after_frames=1)
    reply = await call(server.url, "/api/chat", {**CHAT, "stream": False})
    assert reply.truncated
    assert len(reply.body) == int(reply.headers["content-length"]) // 2


@pytest.mark.parametrize("after_frames", [None, 0, 3])
async def test_a_stall_holds_the_connection_until_the_client_disconnects(
    server: RunningSimulator, after_frames: int | None
) -> None:
    inject(server, "stall", after_frames=after_frames)
    records = server.simulator.recorder.records

    def stalled() -> bool:
        return bool(records) and records[-1].frames == (after_frames or 0)

    await disconnect_when(stalled, server.url, "/api/chat", CHAT)
    assert await server.simulator.recorder.wait_idle(5)
    assert last_record(server).finished == "cancelled"


async def test_a_stall_closes_the_connection_after_stall_s(server: RunningSimulator) -> None:
    server.simulator.behaviour.stall_s = 0.01
    inject(server, "stall", after_frames=1)
    reply = await call(server.url, "/api/chat", CHAT)
    assert reply.truncated
