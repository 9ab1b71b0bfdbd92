"""Shoots at a gateway over several connections at once and keeps what came back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.e2e.fuzz_requests import Shot

# How long a caller waits for the answer to a request whose end nobody can see; then it leaves.
PATIENCE_S = 1.0
# An answer that takes longer is none.
ANSWER_TIMEOUT_S = 60.0


class DownstreamClosed(AssertionError):
    """A whole request got no answer, or none that is HTTP."""


@dataclass(frozen=True)
class Reply:
    """The head of an answer, and as much of its body as the caller waited for. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


class _Closed(Exception):
    """The connection ended before the answer did."""


class Shooter:
    """One caller: a connection from an address of its own, taken anew when the last shot used it up."""

    def __init__(self, url: str, seed: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._dice = random.Random(seed)  # noqa: S311 - nothing secret
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def shoot(self, shot: Shot) -> Reply | None:
        """Sends the shot. None when the caller left, or the connection was ended, before the head of an answer."""
        reused = self._connection is not None
        reader, writer = self._connection or await self._connect()
        self._connection = (reader, writer)
        try:
            for piece in shot.pieces:
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
            if shot.reads_bytes_max == 0:
                return None
            async with asyncio.timeout(ANSWER_TIMEOUT_S if shot.well_framed else PATIENCE_S):
                reply = await _read(reader, shot)
        except (_Closed, ConnectionError, TimeoutError):
            await self.close()
            if not shot.well_framed:
                return None
            if reused:
                # The server had closed the connection for its own reasons before the request was on its way.
                return await self.shoot(shot)
            raise DownstreamClosed(shot) from None
        finally:
            if not shot.well_framed:
                await self.close()
        if not reply.whole or reply.headers.get("connection") == "close":
            await self.close()
        return reply

    async def close(self) -> None:
        """Leaves, whatever is still under way."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # Failed authentications are counted per address, and all of 127/8 is this machine.
        source = f"127.{self._dice.randrange(1, 250)}.{self._dice.randrange(250)}.{self._dice.randrange(2, 250)}"
        return await asyncio.open_connection(*self._address, local_addr=(source, 0))


async def _read(reader: asyncio.StreamReader, shot: Shot) -> Reply:
    status, headers = await _head(reader)
    while status == 100:
        status, headers = await _head(reader)
    body = bytearray()
    try:
        async for part in _body(reader, headers, shot.method):
            body += part
            if shot.reads_bytes_max is not None and len(body) >= shot.reads_bytes_max:
                return Reply(status, headers, bytes(body), whole=False)
    except (_Closed, asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return Reply(status, headers, bytes(body), whole=False)
    return Reply(status, headers, bytes(body), whole=True)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        raise _Closed from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        assert name.lower() not in headers, f"{name} is there twice"
        headers[name.lower()] = value.strip()
    return int(first.split(" ", 2)[1]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], method: bytes) -> AsyncIterator[bytes]:
    if method == b"HEAD":
        return
    if headers.get("transfer-encoding") != "chunked":
        left = int(headers.get("content-length", "0"))
        while left:
            part = await _some(reader, left)
            left -= len(part)
            yield part
        return
    while left := int(await reader.readuntil(b"\r\n"), 16):
        while left:
            part = await _some(reader, left)
            left -= len(part)
            yield part
        await reader.readuntil(b"\r\n")
    await reader.readuntil(b"\r\n")


async def _some(reader: asyncio.StreamReader, most: int) -> bytes:
    part = await reader.read(most)
    if not part:
        raise _Closed
    return part
