"""What only the lean transport promises: exact statuses, its keepalive, and messages split anywhere."""

from __future__ import annotations

import asyncio
import gc
import struct
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hyperframe.frame import RstStreamFrame
from hypothesis import given
from hypothesis import strategies as st

from gateway.rpc.methods import RpcError, Status
from gateway.rpc.nghttp2.calls import ACKNOWLEDGE_BYTES, Call
from gateway.rpc.nghttp2.connection import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX
from gateway.rpc.nghttp2.framing import PREFIX, MessageReader
from gateway.rpc.nghttp2.server import Nghttp2Server
from tests.gateway.rpc.echo import Echo, served
from tests.gateway.rpc.raw_peer import RawPeer, connected, message, request
from tests.polling import eventually_async

HELLO = message(b"hello")
REFUSED_STREAM, CANCEL = 7, 8


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def peer(echo: Echo, tmp_path: Path) -> AsyncIterator[RawPeer]:
    async with served("nghttp2", echo, tmp_path), connected(f"{tmp_path}/rpc.sock") as connection:
        yield connection


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", Status.INTERNAL),
        (HELLO[:3], Status.INTERNAL),
        (HELLO[:-1], Status.INTERNAL),
        (HELLO + HELLO, Status.INTERNAL),
        (struct.pack(">BI", 0, 1) + b"\xff", Status.INTERNAL),
        (struct.pack(">BI", 2, 0), Status.INTERNAL),
        (struct.pack(">BI", 1, 0), Status.UNIMPLEMENTED),
        (struct.pack(">BI", 0, 1 << 31), Status.RESOURCE_EXHAUSTED),
    ],
)
async def test_the_status_of_a_bad_request(peer: RawPeer, data: bytes, status: Status) -> None:
    stream = peer.open("Echo")
    peer.data(stream, data, end=True)
    answer = await peer.answer(stream)
    # Trailers only: nothing but one HEADERS frame.
    assert answer.headers[":status"] == "200"
    assert (int(answer.headers["grpc-status"]), answer.data) == (status, b"")


@pytest.mark.parametrize("within", ["", "1", "S", "1s", "-1S", "123456789S", "1.5S", "\u0661S"])
async def test_a_malformed_timeout_ends_the_call(peer: RawPeer, within: str) -> None:
    stream = peer.open("Echo", grpc_timeout=within)
    peer.data(stream, HELLO, end=True)
    assert int((await peer.answer(stream)).headers["grpc-status"]) == Status.INTERNAL


@pytest.mark.parametrize(
    "fields",
    [
        {":method": "GET"},
        {"content-type": "application/json"},
        {"content-type": "application/grpc-web"},
        {"content-type": "application/grpc+json"},
        {"content-type": ""},
    ],
)
async def test_a_request_that_is_not_grpc_is_answered_with_415(peer: RawPeer, fields: dict[str, str]) -> None:
    frame = peer.headers(list({**dict(request("Echo")), **fields}.items()), end=True)
    peer.send(frame)
    answer = await peer.answer(frame.stream_id)
    assert answer.headers == {":status": "415"}


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"])
async def test_the_content_types_of_grpc(peer: RawPeer, kind: str) -> None:
    stream = peer.open("Echo", content_type=kind)
    peer.data(stream, HELLO, end=True)
    assert (await peer.answer(stream)).data == HELLO


async def test_more_streams_than_the_limit_are_refused_one_by_one(peer: RawPeer, echo: Echo) -> None:
    for _ in range(STREAMS_MAX):
        peer.open("Chat")
    await eventually_async(lambda: echo.open == STREAMS_MAX)
    assert (await peer.answer(peer.open("Chat"))).reset == REFUSED_STREAM
    peer.data(1, HELLO)
    assert await peer.received(1, len(HELLO)) == HELLO


async def test_a_call_that_fails_before_its_request_ends_is_reset_without_an_error(peer: RawPeer) -> None:
    stream = peer.open("Chat")
    peer.data(stream, message(b"fail"))
    answer = await peer.answer(stream)
    assert int(answer.headers["grpc-status"]) == Status.NOT_FOUND
    answer.ended = False
    assert (await peer.answer(stream)).reset == 0


async def test_a_closed_call_leaves_nothing_to_the_garbage_collector(peer: RawPeer, echo: Echo) -> None:
    # What earlier tests left.
    gc.collect()
    gc.disable()
    try:
        for method in ("Echo", "Later", "Fail", "Chat", "Await"):
            stream = peer.open(method)
            peer.data(stream, HELLO, end=True)
            await peer.answer(stream)
        for method in ("Hang", "Chat"):
            stream = peer.open(method)
            peer.data(stream, HELLO)
            peer.send(RstStreamFrame(stream, error_code=CANCEL))
        await eventually_async(lambda: len(echo.causes) == 3)
        await eventually_async(lambda: not any(isinstance(each, Call) for each in gc.get_objects()))
    finally:
        gc.enable()


@pytest.mark.parametrize("acknowledges", [False, True])
async def test_a_peer_that_answers_no_ping_is_disconnected(echo: Echo, tmp_path: Path, acknowledges: bool) -> None:
    server = Nghttp2Server(echo.methods(), 1 << 20, keepalive_s=0.1)
    path = f"{tmp_path}/rpc.sock"
    await server.start(f"unix:{path}")
    async with connected(path, acknowledges=acknowledges) as peer:
        stream = peer.open("Chat")
        if not acknowledges:
            await peer.end()
            await eventually_async(lambda: echo.open == 0)
        else:
            while len(peer.pings) < 4:
                await peer.read()
            peer.data(stream, HELLO)
            assert await peer.received(stream, len(HELLO)) == HELLO
    await server.stop(0)


async def test_a_server_that_stops_does_not_wait_for_a_peer_that_reads_nothing(echo: Echo, tmp_path: Path) -> None:
    server = Nghttp2Server(echo.methods(), 1 << 20)
    await server.start(f"unix:{tmp_path}/rpc.sock")
    async with connected(f"{tmp_path}/rpc.sock") as peer:
        peer.data(peer.open("Big"), HELLO * 1000)
        await eventually_async(lambda: echo.received > 0)
        async with asyncio.timeout(20):
            await server.stop(0)
        assert echo.open == 0


def encode(encoded: bytes | bytearray) -> bytes:
    return PREFIX.pack(0, len(encoded)) + encoded


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 20)))
def test_messages_are_read_wherever_they_are_split(messages: list[bytes], sizes: list[int]) -> None:
    sent = b"".join(map(encode, messages))
    reader, read, at = MessageReader(50), [], 0
    while at < len(sent):
        size = sizes[at % len(sizes)] if sizes else len(sent)
        reader.feed(sent[at : at + size])
        at += size
        while (each := reader.next()) is not None:
            read.append(each)
    assert read == messages
    assert not reader.partial


@pytest.mark.parametrize("step", [1 << 14, 1 << 21])
def test_a_message_that_was_read_is_not_retained(step: int) -> None:
    size = 1 << 20
    sent, reader = encode(bytes(size)), MessageReader(size)
    tracemalloc.start()
    try:
        for at in range(0, len(sent), step):
            # A copy, as nghttp2 makes one.
            reader.feed(bytes(bytearray(sent[at : at + step])))
        held, _ = tracemalloc.get_traced_memory()
        assert len(reader.next() or b"") == size
        retained, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held > size > 16 * retained


@given(st.binary(max_size=200), st.integers(1, 50))
def test_bytes_that_are_no_messages_are_refused_or_wait(data: bytes, step: int) -> None:
    reader = MessageReader(50)
    read = b""
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
            while (each := reader.next()) is not None:
                read += encode(each)
    except RpcError as error:
        assert error.status in (Status.INTERNAL, Status.UNIMPLEMENTED, Status.RESOURCE_EXHAUSTED)
    assert data.startswith(read)


def test_what_calls_leave_unacknowledged_uses_up_no_window() -> None:
    assert ACKNOWLEDGE_BYTES < STREAM_WINDOW_BYTES / 2
    assert ACKNOWLEDGE_BYTES * STREAMS_MAX < CONNECTION_WINDOW_BYTES
