"""The claims about the lean gRPC server, for any bytes of a peer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog
from google.protobuf.wrappers_pb2 import BytesValue
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from gateway.rpc.methods import Message, Metadata, Method, Streaming, Unary
from gateway.rpc.nghttp2.connection import Connection
from tests.gateway.rpc.raw_peer import PREFACE, message, request

MESSAGE_BYTES_MAX = 1000
# Each input has at most some 4 KiB, and none of its calls replies with more than it received.
_SENT_BYTES_MAX = 1 << 20


class _Sessions:
    """Streaming calls that reply at once to some messages, and to others after a turn of the event loop."""

    def __init__(self) -> None:
        self.open = 0

    def session(self, _: Metadata) -> _Session:
        self.open += 1
        return _Session(self)


class _Session:
    def __init__(self, sessions: _Sessions) -> None:
        self._sessions = sessions

    def receive(self, received: BytesValue) -> Message | Awaitable[Message]:
        return _later(received) if len(received.value) % 2 else received

    def finish(self) -> None:
        """No last reply."""

    def close(self, cause: Exception | None) -> None:
        assert cause is None
        self._sessions.open -= 1


class _Transport(asyncio.Transport):
    """Notes what is written, and stops the writer now and then."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self.sent_bytes = 0
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.sent_bytes += len(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        """The fuzzer decides what is read."""

    def resume_reading(self) -> None:
        """The fuzzer decides what is read."""


def check_connection(data: bytes, step: int, *, pauses: bool) -> None:
    """Bytes after the preface, received in pieces of `step` bytes, raise no error and leave nothing behind."""
    with structlog.testing.capture_logs() as logs:
        asyncio.run(_receive(PREFACE + data, step, pauses=pauses))
    assert not [each for each in logs if each["log_level"] == "error"]


async def _receive(data: bytes, step: int, *, pauses: bool) -> None:
    sessions = _Sessions()
    methods: dict[str, Method] = {
        "/test.Echo/Echo": Unary("/test.Echo/Echo", BytesValue, lambda received: received),
        "/test.Echo/Later": Unary("/test.Echo/Later", BytesValue, _later),
        "/test.Echo/Chat": Streaming("/test.Echo/Chat", BytesValue, sessions.session),
    }
    connections: set[Connection] = set()
    tasks: set[asyncio.Future[Message | None]] = set()
    connection = Connection(methods, MESSAGE_BYTES_MAX, connections, tasks)
    transport = _Transport(connection)
    connection.connection_made(transport)
    for at in range(0, len(data), step):
        if transport.closed:
            break
        if pauses and at // step % 3 == 0:
            connection.pause_writing()
        connection.data_received(data[at : at + step])
        if pauses and at // step % 3 == 0 and not transport.closed:
            connection.resume_writing()
        await asyncio.sleep(0)
    if not transport.closed:
        connection.drain()
        connection.end_calls()
    connection.connection_lost(None)
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert sessions.open == 0
    assert not connections
    assert transport.sent_bytes < _SENT_BYTES_MAX


async def _later(received: BytesValue) -> BytesValue:
    await asyncio.sleep(0)
    return received


def conversations() -> list[bytes]:
    """What peers send after the preface, from a whole call to calls that are broken off."""
    settings = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100})
    found: list[list[Frame]] = []
    for name in ("Echo", "Later", "Chat", "Nothing"):
        for sent in (message(b"hello"), message(b"hell") * 3, message(b"hello")[:7], b""):
            encoder = Encoder()
            for ended in (True, False):
                first = HeadersFrame(1, data=encoder.encode(request(name)), flags=["END_HEADERS"])
                second = HeadersFrame(3, data=encoder.encode(request(name)), flags=["END_HEADERS"])
                data = DataFrame(1, data=sent, flags=["END_STREAM"] if ended else [])
                found.append([settings, first, data, second, WindowUpdateFrame(1, 100), PingFrame(0, b"12345678")])
                found.append([settings, first, data, RstStreamFrame(1, 8), second, DataFrame(3, data=sent)])
    return [b"".join(frame.serialize() for frame in frames) for frames in found]
