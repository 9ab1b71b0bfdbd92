"""An HTTP/2 client that follows no rules: it sends any frame at any time, and reads only when a test wants it to."""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from google.protobuf.wrappers_pb2 import BytesValue
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_BYTES_MAX = (1 << 31) - 1
_TIMEOUT_S = 20.0
_FRAME_HEADER_BYTES = 9


def message(value: bytes) -> bytes:
    """A BytesValue in gRPC's framing."""
    encoded = BytesValue(value=value).SerializeToString()
    return struct.pack(">BI", 0, len(encoded)) + encoded


def request(name: str, **fields: str) -> list[tuple[str, str]]:
    """The headers of a call of a method of the echo service. An underscore in a name of `fields` is a hyphen."""
    headers = {":method": "POST", ":scheme": "http", ":path": f"/test.Echo/{name}", ":authority": "test"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    headers |= {key.replace("_", "-"): value for key, value in fields.items()}
    return list(headers.items())


@dataclass
class Answer:
    """What has come on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class RawPeer:
    """One connection. `windows` permits the server to send without limit, and `acknowledges` answers its PINGs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, acknowledges: bool) -> None:
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.goaways: list[GoAwayFrame] = []
        self.pings: list[PingFrame] = []
        self.closed = False
        self._reader, self._writer = reader, writer
        self._acknowledges = acknowledges
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next_stream = 1

    def send(self, *frames: Frame | bytes) -> None:
        """Writes frames, or bytes that are none."""
        self._writer.write(b"".join(each if isinstance(each, bytes) else each.serialize() for each in frames))

    async def drain(self) -> None:
        """Waits until the server has read most of what was sent."""
        await self._writer.drain()

    def headers(self, fields: list[tuple[str, str]], *, end: bool = False) -> HeadersFrame:
        """The HEADERS of a new stream."""
        frame = HeadersFrame(self._next_stream, data=self._encoder.encode(fields), flags=["END_HEADERS"])
        if end:
            frame.flags.add("END_STREAM")
        self._next_stream += 2
        return frame

    def open(self, name: str, **fields: str) -> int:
        """Begins a call and returns its stream."""
        frame = self.headers(request(name, **fields))
        self.send(frame)
        return frame.stream_id

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Sends DATA in frames of at most 16 KiB."""
        for at in range(0, max(1, len(data)), 1 << 14):
            frame = DataFrame(stream_id, data=data[at : at + (1 << 14)])
            if end and at + (1 << 14) >= len(data):
                frame.flags.add("END_STREAM")
            self.send(frame)

    async def read(self) -> None:
        """Handles one frame."""
        try:
            header = await self._reader.readexactly(_FRAME_HEADER_BYTES)
            frame, size = Frame.parse_frame_header(memoryview(header))
            frame.parse_body(memoryview(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            return
        answer = self.answers[frame.stream_id]
        match frame:
            case HeadersFrame():
                answer.headers.update((str(name), str(value)) for name, value in self._decoder.decode(frame.data))
            case DataFrame():
                answer.data += frame.data
            case RstStreamFrame():
                answer.reset = frame.error_code
            case GoAwayFrame():
                self.goaways.append(frame)
            case PingFrame() if "ACK" not in frame.flags:
                self.pings.append(frame)
                if self._acknowledges:
                    self.send(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
            case SettingsFrame() if "ACK" not in frame.flags:
                self.send(SettingsFrame(0, flags=["ACK"]))
        answer.ended |= "END_STREAM" in frame.flags

    async def answer(self, stream_id: int) -> Answer:
        """What has come on a stream when it is over, or the connection is."""
        answer = self.answers[stream_id]
        async with asyncio.timeout(_TIMEOUT_S):
            while not answer.over and not self.closed:
                await self.read()
        return answer

    async def received(self, stream_id: int, size: int) -> bytes:
        """The first `size` bytes or more of the DATA of a stream."""
        async with asyncio.timeout(_TIMEOUT_S):
            while len(self.answers[stream_id].data) < size and not self.closed:
                await self.read()
        return self.answers[stream_id].data

    async def end(self) -> None:
        """Reads until the server closes the connection."""
        async with asyncio.timeout(_TIMEOUT_S):
            while not self.closed:
                await self.read()


@asynccontextmanager
async def connected(
    path: str, *, window_bytes: int = WINDOW_BYTES_MAX, acknowledges: bool = True
) -> AsyncIterator[RawPeer]:
    """A connection whose streams each have this window, and whose connection window has no effect if it is not 0."""
    reader, writer = await asyncio.open_unix_connection(path)
    peer = RawPeer(reader, writer, acknowledges=acknowledges)
    peer.send(PREFACE, SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: window_bytes}))
    if window_bytes:
        peer.send(WindowUpdateFrame(0, window_increment=WINDOW_BYTES_MAX - 65_535))
    try:
        yield peer
    finally:
        writer.transport.abort()
