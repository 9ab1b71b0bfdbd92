"""Upstreams whose bytes the test writes itself: raw TCP, one script per path.

Unlike a server, a script can send half an answer and a reset. Each path has a script for the first upstream and one for
the second. `contacted` lists the upstreams that received a request for a path, in order, and `heads` the heads of these
requests.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

FIRST, SECOND = "first", "second"
_NO_LINGER = struct.pack("ii", 1, 0)


class Exchange:
    """One request on one connection, which can be answered in any broken way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        """Writes the parts and waits until the kernel has accepted them."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    def reset(self) -> None:
        """Ends the connection with a TCP RST."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()

    def close(self) -> None:
        """Ends the connection with a FIN."""
        self._writer.close()

    async def wait_disconnected(self) -> None:
        """Waits until the other side closes the connection."""
        while await self._reader.read(4096):
            pass


Script = Callable[[Exchange], Awaitable[None]]


def head(content_type: str | None, *framing: str, status: str = "200 OK") -> bytes:
    """The head of a response. `framing` are complete header lines; without them the body is chunked."""
    lines = [f"HTTP/1.1 {status}", *([f"content-type: {content_type}"] if content_type is not None else [])]
    return "\r\n".join([*lines, *(framing or ("transfer-encoding: chunked",)), "", ""]).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. An empty chunk ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sends(*parts: bytes) -> Script:
    """Sends the parts and leaves the connection open for the next request."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)

    return script


def resets_after(*parts: bytes) -> Script:
    """Sends the parts, then a RST."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        exchange.reset()

    return script


def closes_after(*parts: bytes) -> Script:
    """Sends the parts, then a FIN."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        exchange.close()

    return script


def stalls_after(*parts: bytes) -> Script:
    """Sends the parts, then nothing until the other side disconnects."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        await exchange.wait_disconnected()

    return script


class Upstreams:
    """Two upstreams, each on its own loopback port."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.contacted: dict[str, list[str]] = {}
        self.heads: dict[str, list[bytes]] = {}
        self._scripts: dict[str, dict[str, Script]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    def path(self, *, first: Script, second: Script, under: str = "", surface: str = "") -> str:
        """A new path that these scripts answer. It begins with `under` and ends with `surface`."""
        path = f"{under}/{next(self._numbers)}{surface}"
        self._scripts[path] = {FIRST: first, SECOND: second}
        self.contacted[path], self.heads[path] = [], []
        return path

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Upstreams]:
        """Listens until the context ends, then closes the remaining connections."""
        async with await self._listen(FIRST), await self._listen(SECOND):
            try:
                yield self
            finally:
                for connection in self._connections:
                    connection.cancel()
                await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self, name: str) -> asyncio.Server:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.create_task(self._serve(name, reader, writer))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
        self.ports[name] = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer)
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")  # no request of these tests has a body
                path = request.split(b" ", 2)[1].decode()
                self.contacted[path].append(name)
                self.heads[path].append(request)
                await self._scripts[path][name](exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # Envoy closed the connection, between requests or when it abandoned an attempt.
        finally:
            writer.close()
