"""A TCP relay between a test and its PostgreSQL that can stall, like a network that loses every packet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Relay:
    """Forwards both directions while `open` is set, and holds every byte back while it is not.

    `url` is the database URL that leads through the relay.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.open = asyncio.Event()
        self.open.set()
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Relay]:
        """Relays to the server of `url` until the context ends."""
        parts = urlsplit(url)
        relay = cls(parts.hostname or "", parts.port or 5432)
        server = await asyncio.start_server(relay._connect, "127.0.0.1", 0)
        relay.url = url.replace(f":{parts.port}/", f":{server.sockets[0].getsockname()[1]}/")
        try:
            yield relay
        finally:
            server.close()
            for writer in relay._writers:
                writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, server_writer]
        try:
            await asyncio.gather(self._forward(reader, server_writer), self._forward(server_reader, writer))
        except OSError:
            pass  # One side has closed. The other is closed below.
        finally:
            writer.close()
            server_writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.open.wait()
            writer.write(data)
        writer.close()
