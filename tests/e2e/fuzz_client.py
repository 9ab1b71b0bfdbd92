"""A client that sends the bytes of generated requests and returns what it received."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.e2e.fuzz_requests import RawRequest

# The client waits this long for an answer to a request whose end is not recognisable, then it disconnects.
UNFRAMED_TIMEOUT_S = 1.0
# A longer wait counts as no answer.
ANSWER_TIMEOUT_S = 60.0


class DownstreamClosed(AssertionError):
    """A complete request got no answer, or one that is not HTTP."""


@dataclass(frozen=True)
class PartialAnswer:
    """The head of an answer, and the part of its body that the client read. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


class _Closed(Exception):
    """The connection closed before the answer was complete."""


class FuzzClient:
    """One client with one connection. After a request that ends it, the client reconnects from another address."""

    def __init__(self, url: str, seed: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: RawRequest) -> PartialAnswer | None:
        """Sends the request. Returns None if the client or the server disconnected before the head arrived."""
        reused = self._connection is not None
        reader, writer = self._connection or await self._connect()
        self._connection = (reader, writer)
        try:
            for piece in request.pieces:
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
            if request.read_bytes_max == 0:
                return None
            async with asyncio.timeout(ANSWER_TIMEOUT_S if request.well_framed else UNFRAMED_TIMEOUT_S):
                answer = await _read(reader, request)
        except (_Closed, ConnectionError, TimeoutError):
            await self.close()
            if not request.well_framed:
                return None
            if reused:
                # The server may have closed the idle connection before it received the request.
                return await self.send(request)
            raise DownstreamClosed(request) from None
        finally:
            if not request.well_framed:
                await self.close()
        if not answer.complete or answer.headers.get("connection") == "close":
            await self.close()
        return answer

    async def close(self) -> None:
        """Disconnects at once, even in the middle of a request."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # Failed authentications are counted per address, so clients use different addresses of 127/8.
        source = f"127.{self._random.randrange(1, 250)}.{self._random.randrange(250)}.{self._random.randrange(2, 250)}"
        return await asyncio.open_connection(*self._address, local_addr=(source, 0))


async def _read(reader: asyncio.StreamReader, request: RawRequest) -> PartialAnswer:
    status, headers = await _head(reader)
    while status == 100:
        status, headers = await _head(reader)
    body = bytearray()
    try:
        async for part in _body(reader, headers, request.method):
            body += part
            if request.read_bytes_max is not None and len(body) >= request.read_bytes_max:
                return PartialAnswer(status, headers, bytes(body), complete=False)
    except (_Closed, asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return PartialAnswer(status, headers, bytes(body), complete=False)
    return PartialAnswer(status, headers, bytes(body), complete=True)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        raise _Closed from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        assert name.lower() not in headers, f"{name} occurs twice"
        headers[name.lower()] = value.strip()
    return int(first.split(" ", 2)[1]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], method: bytes) -> AsyncIterator[bytes]:
    if method == b"HEAD":
        return
    if headers.get("transfer-encoding") != "chunked":
        remaining = int(headers.get("content-length", "0"))
        while remaining:
            part = await _read_some(reader, remaining)
            remaining -= len(part)
            yield part
        return
    while remaining := int(await reader.readuntil(b"\r\n"), 16):
        while remaining:
            part = await _read_some(reader, remaining)
            remaining -= len(part)
            yield part
        await reader.readuntil(b"\r\n")
    await reader.readuntil(b"\r\n")


async def _read_some(reader: asyncio.StreamReader, size_max: int) -> bytes:
    part = await reader.read(size_max)
    if not part:
        raise _Closed
    return part
