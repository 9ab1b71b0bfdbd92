"""What the transports do with a client that breaks the rules of gRPC and of HTTP/2.

After each of them, the server answers another client, and no session is left.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from gateway.rpc.server import RpcServer
from tests.gateway.rpc.echo import TRANSPORTS, Echo, served
from tests.gateway.rpc.raw_peer import PREFACE, RawPeer, connected, message, request
from tests.polling import eventually_async

CANCEL = 8
HELLO = message(b"hello")
# grpc.aio takes a request that ends within a message for complete, reports some errors only at the end of a request,
# and cancels calls of other clients under floods.
nghttp2_only = pytest.mark.parametrize("path", ["nghttp2"], indirect=True)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=TRANSPORTS)
async def path(request: pytest.FixtureRequest, echo: Echo, tmp_path: Path) -> AsyncIterator[str]:
    async with served(request.param, echo, tmp_path) as (_, client):
        yield f"{tmp_path}/rpc.sock"
        assert (await client.unary("Echo", b"a")).value == b"a"
        await eventually_async(lambda: echo.open == 0)


@pytest.fixture
async def peer(path: str) -> AsyncIterator[RawPeer]:
    async with connected(path) as connection:
        yield connection


def status(headers: dict[str, str]) -> int:
    return int(headers["grpc-status"])


async def test_a_message_may_arrive_byte_by_byte(peer: RawPeer) -> None:
    stream = peer.open("Chat")
    for byte in HELLO:
        peer.data(stream, bytes([byte]))
        await peer.drain()
        await asyncio.sleep(0)
    assert await peer.received(stream, len(HELLO)) == HELLO


@nghttp2_only
@pytest.mark.parametrize("name", ["Echo", "Chat"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack(">BI", 0, (1 << 32) - 1), id="too large by its prefix"),
        pytest.param(struct.pack(">BI", 1, 3) + b"abc", id="compressed"),
        pytest.param(struct.pack(">BI", 7, 3) + b"abc", id="unknown flag"),
        pytest.param(struct.pack(">BI", 0, 3) + b"\xff\xff\xff", id="not a protobuf message"),
    ],
)
async def test_a_bad_message_ends_its_call_before_the_request_ends(peer: RawPeer, name: str, data: bytes) -> None:
    stream = peer.open(name)
    # A unary call of grpc.aio parses its message only at the end of the request.
    peer.data(stream, data, end=name == "Echo")
    answer = await peer.answer(stream)
    assert answer.reset is not None or status(answer.headers) != 0
    assert not answer.data


@nghttp2_only
@pytest.mark.parametrize("data", [HELLO[:3], HELLO[:-1], HELLO + HELLO[:-1]])
@pytest.mark.parametrize("name", ["Echo", "Chat"])
async def test_a_request_that_ends_within_a_message_fails(peer: RawPeer, name: str, data: bytes) -> None:
    stream = peer.open(name)
    peer.data(stream, data, end=True)
    answer = await peer.answer(stream)
    assert answer.reset is not None or status(answer.headers) != 0


@nghttp2_only
async def test_a_unary_call_without_a_message_fails(peer: RawPeer) -> None:
    stream = peer.open("Echo")
    peer.data(stream, b"", end=True)
    assert status((await peer.answer(stream)).headers) != 0


@pytest.mark.parametrize("name", ["Chat", "Await", "Echo"])
@pytest.mark.parametrize("sent", [b"", HELLO[:3], HELLO[:-1], HELLO, HELLO + HELLO[:2]])
async def test_a_reset_that_comes_with_data_ends_the_call(peer: RawPeer, name: str, sent: bytes) -> None:
    for _ in range(20):
        frame = peer.headers(request(name))
        peer.send(frame, DataFrame(frame.stream_id, data=sent), RstStreamFrame(frame.stream_id, error_code=CANCEL))
    stream = peer.open("Chat")
    peer.data(stream, HELLO)
    assert await peer.received(stream, len(HELLO)) == HELLO


@pytest.mark.parametrize("name", ["Hang", "Await"])
async def test_a_reset_cancels_a_handler_that_runs(peer: RawPeer, echo: Echo, name: str) -> None:
    stream = peer.open(name)
    peer.data(stream, message(b"gate"), end=name == "Hang")
    await peer.drain()
    marker = peer.open("Chat")
    peer.data(marker, HELLO)
    await peer.received(marker, len(HELLO))
    peer.send(RstStreamFrame(stream, error_code=CANCEL), RstStreamFrame(marker, error_code=CANCEL))
    if name == "Hang":
        await asyncio.wait_for(echo.cancelled.wait(), 20)
    await eventually_async(lambda: echo.open == 0)


@nghttp2_only
async def test_a_connection_that_is_lost_ends_its_calls(path: str, echo: Echo) -> None:
    async with connected(path) as peer:
        for name in ("Chat", "Await", "Hang"):
            stream = peer.open(name)
            peer.data(stream, message(b"gate"), end=name == "Hang")
        await peer.received(1, 1)
    await asyncio.wait_for(echo.cancelled.wait(), 20)
    await eventually_async(lambda: echo.open == 0)


@nghttp2_only
async def test_thousands_of_rapid_resets_leave_the_server_usable(peer: RawPeer, echo: Echo) -> None:
    for _ in range(5000):
        frame = peer.headers(request("Chat"))
        peer.send(frame, DataFrame(frame.stream_id, data=HELLO), RstStreamFrame(frame.stream_id, error_code=CANCEL))
    await eventually_async(lambda: echo.open == 0)


@nghttp2_only
async def test_what_was_sent_on_reset_streams_is_given_back_to_the_window_of_the_connection(path: str) -> None:
    """The peer sends more than the window of the connection on streams that never have a whole message."""
    part = struct.pack(">BI", 0, 1 << 20) + bytes(60_000)
    async with connected(path) as peer:
        for _ in range(1500):
            stream = peer.open("Chat")
            peer.data(stream, part)
            peer.send(RstStreamFrame(stream, error_code=CANCEL))
            await peer.drain()
        stream = peer.open("Chat")
        peer.data(stream, HELLO)
        assert await peer.received(stream, len(HELLO)) == HELLO


@nghttp2_only
@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(PingFrame(0, opaque_data=b"12345678"), id="ping"),
        pytest.param(SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 20_000}), id="settings"),
        pytest.param(PriorityFrame(1, depends_on=0, stream_weight=1), id="priority"),
        pytest.param(WindowUpdateFrame(0, window_increment=1), id="window update"),
        pytest.param(DataFrame(1, data=b""), id="empty data"),
        pytest.param(RstStreamFrame(1, error_code=CANCEL), id="reset"),
    ],
)
async def test_a_flood_of_a_peer_that_reads_nothing_does_not_reach_others(path: str, flood: Frame) -> None:
    async with connected(path) as peer:
        peer.open("Chat")
        frames = flood.serialize() * 1000
        try:
            async with asyncio.timeout(2):
                for _ in range(100):
                    peer.send(frames)
                    await peer.drain()
        except (TimeoutError, ConnectionError):
            # The server has stopped reading, or has closed the connection.
            return


@nghttp2_only
@pytest.mark.parametrize("window_bytes", [0, 1, 100_000])
async def test_replies_for_which_the_peer_opens_no_window_are_bounded(path: str, echo: Echo, window_bytes: int) -> None:
    async with connected(path, window_bytes=window_bytes) as peer:
        stream = peer.open("Big")
        for _ in range(1000):
            peer.data(stream, HELLO)
        peer.data(stream, b"", end=True)
        other = peer.open("Chat")
        peer.data(other, HELLO)
        await eventually_async(lambda: echo.opened == 2)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert echo.received < 500


@nghttp2_only
async def test_a_stream_whose_window_is_closed_holds_up_no_other(path: str) -> None:
    async with connected(path, window_bytes=100) as peer:
        stalled = peer.open("Big")
        peer.data(stalled, HELLO * 100)
        for _ in range(10):
            stream = peer.open("Chat")
            peer.data(stream, HELLO)
            assert await peer.received(stream, len(HELLO)) == HELLO
        peer.send(WindowUpdateFrame(stalled, window_increment=10 << 20))
        assert len(await peer.received(stalled, 100 * (64 << 10))) >= 100 * (64 << 10)


@nghttp2_only
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"x": "a" * 100_000}, id="one large field"),
        pytest.param({f"x{number}": "a" for number in range(5000)}, id="many fields"),
        pytest.param({"Upper": "a"}, id="a name in upper case"),
        pytest.param({"connection": "close"}, id="a field of HTTP/1.1"),
        pytest.param({":path": ""}, id="no path"),
        pytest.param({":status": "200"}, id="a field of a response"),
    ],
)
async def test_bad_headers_open_no_call(peer: RawPeer, echo: Echo, fields: dict[str, str]) -> None:
    frame = peer.headers([*request("Chat"), *fields.items()])
    block, frame.data = frame.data, frame.data[: 1 << 14]
    frame.flags.discard("END_HEADERS")
    peer.send(frame)
    for at in range(1 << 14, len(block), 1 << 14):
        peer.send(ContinuationFrame(frame.stream_id, data=block[at : at + (1 << 14)]))
    peer.send(ContinuationFrame(frame.stream_id, data=b"", flags=["END_HEADERS"]))
    answer = await peer.answer(frame.stream_id)
    assert answer.over or peer.closed
    assert echo.opened == 0


@nghttp2_only
async def test_a_header_block_that_grows_when_it_is_decoded_opens_no_call(peer: RawPeer, echo: Echo) -> None:
    """HPACK: one field of 4,000 bytes in the dynamic table, and 10,000 references of one byte to it."""
    peer.send(peer.headers([*request("Nothing"), ("x", "a" * 3900)], end=True))
    frame = peer.headers(request("Chat"))
    frame.data += b"\xbe" * 10_000
    peer.send(frame)
    answer = await peer.answer(frame.stream_id)
    assert answer.over or peer.closed
    assert echo.opened == 0


@nghttp2_only
async def test_endless_continuations_end_the_connection(peer: RawPeer) -> None:
    frame = peer.headers(request("Chat"))
    frame.flags.discard("END_HEADERS")
    peer.send(frame)
    for _ in range(10_000):
        peer.send(ContinuationFrame(frame.stream_id, data=b"\x00\x01a\x01b"))
    await peer.end()


def flood() -> bytes:
    """131 MB of data, which is more than any window."""
    return bytes(DataFrame(1, data=bytes(1 << 14)).serialize()) * 8000


ILLEGAL: dict[str, Frame | bytes | Callable[[], bytes]] = {
    "data on an idle stream": DataFrame(99, data=b"a"),
    "data on stream 0": b"\0\0\1\0\0\0\0\0\0a",
    "headers on an even stream": HeadersFrame(2, data=b"\x82", flags=["END_HEADERS"]),
    "headers of garbage": HeadersFrame(9, data=b"\xff" * 20, flags=["END_HEADERS"]),
    "reset of an idle stream": RstStreamFrame(99),
    "a window of 0": b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    "an overflowing window": WindowUpdateFrame(0, window_increment=(1 << 31) - 1),
    "an overflowing window of a stream": WindowUpdateFrame(1, window_increment=(1 << 31) - 1),
    "a promise": PushPromiseFrame(1, promised_stream_id=2, data=b"\x82", flags=["END_HEADERS"]),
    "settings of a wrong size": b"\0\0\5\4\0\0\0\0\0hello",
    "settings on a stream": b"\0\0\0\4\0\0\0\0\1",
    "settings out of range": b"\0\0\6\4\0\0\0\0\0\0\5\0\0\0\1",
    "a ping of a wrong size": b"\0\0\1\6\0\0\0\0\0a",
    "a continuation without headers": ContinuationFrame(1, data=b"\x82"),
    "a priority of itself": PriorityFrame(1, depends_on=1, stream_weight=1),
    "padding beyond the frame": b"\0\0\2\0\x08\0\0\0\1\xffa",
    "a frame that is too large": b"\xff\xff\xff\0\0\0\0\0\1" + bytes(40_000),
    "an unknown frame": b"\0\0\3\xee\xff\0\0\0\1abc",
    "the preface again": PREFACE,
    "http/1.1": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "goaway": GoAwayFrame(0, last_stream_id=0, error_code=2),
    "more than the window": flood,
}


@pytest.mark.parametrize("name", ILLEGAL)
@pytest.mark.parametrize("begun", [False, True])
async def test_an_illegal_frame_ends_at_most_its_connection(path: str, name: str, begun: bool) -> None:
    async with connected(path) as peer:
        if begun:
            stream = peer.open("Await")
            peer.data(stream, HELLO)
            await peer.received(stream, len(HELLO))
            peer.data(stream, message(b"gate"))
        sent = ILLEGAL[name]
        peer.send(sent() if callable(sent) else sent)
        peer.send(PingFrame(0, opaque_data=b"12345678"))
        await peer.read()


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], bytes(100), PREFACE, PREFACE + HELLO])
async def test_a_connection_that_never_begins_holds_up_no_other(path: str, sent: bytes) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(sent)
    await writer.drain()
    async with connected(path) as peer:
        stream = peer.open("Chat")
        peer.data(stream, HELLO)
        assert await peer.received(stream, len(HELLO)) == HELLO
    writer.transport.abort()


async def test_a_peer_that_sends_goaway_is_still_served_on_its_streams(peer: RawPeer) -> None:
    stream = peer.open("Chat")
    peer.data(stream, HELLO)
    await peer.received(stream, len(HELLO))
    peer.send(GoAwayFrame(0, last_stream_id=0, error_code=0))
    peer.data(stream, HELLO)
    assert await peer.received(stream, 2 * len(HELLO)) == 2 * HELLO


@pytest.mark.parametrize("within", ["1n", "1u", "1m", "0S", "00000001m"])
async def test_a_deadline_that_has_passed_ends_the_call(peer: RawPeer, within: str) -> None:
    stream = peer.open("Hang", grpc_timeout=within)
    peer.data(stream, HELLO, end=True)
    answer = await peer.answer(stream)
    # grpc.aio resets a stream whose deadline has passed before its handler begins.
    assert answer.reset is not None or status(answer.headers) in (1, 4)


@pytest.mark.parametrize("within", ["99999999H", "60M", "60S", "60000m"])
async def test_a_deadline_far_off_is_accepted(peer: RawPeer, within: str) -> None:
    stream = peer.open("Later", grpc_timeout=within)
    peer.data(stream, HELLO, end=True)
    answer = await peer.answer(stream)
    assert (status(answer.headers), answer.data) == (0, HELLO)


async def test_a_server_that_stops_serves_what_was_opened_before_its_notice_was_read(
    echo: Echo, tmp_path: Path
) -> None:
    async with served("nghttp2", echo, tmp_path) as (server, _), connected(f"{tmp_path}/rpc.sock") as peer:
        await stops_gracefully(server, peer)


async def stops_gracefully(server: RpcServer, peer: RawPeer) -> None:
    """RFC 9113, section 6.8: a notice with the largest stream, and later one with the last that is served."""
    stream = peer.open("Chat")
    peer.data(stream, HELLO)
    await peer.received(stream, len(HELLO))
    stopping = asyncio.create_task(server.stop(20))
    await asyncio.sleep(0)
    late = peer.open("Chat")
    peer.data(late, HELLO)
    assert await peer.received(late, len(HELLO)) == HELLO
    assert not stopping.done()
    for each in (stream, late):
        peer.data(each, b"", end=True)
        assert status((await peer.answer(each)).headers) == 0
    await peer.end()
    assert [frame.last_stream_id for frame in peer.goaways] == [(1 << 31) - 1, late]
    await stopping
