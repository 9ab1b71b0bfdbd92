"""A network that can lose everything, between a test and its PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Wire:
    """A TCP relay to PostgreSQL that can hold everything back, as a network does that loses packets."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.open = asyncio.Event()
        self.open.set()
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Wire]:
        parts = urlsplit(url)
        wire = cls(parts.hostname or "", parts.port or 5432)
        server = await asyncio.start_server(wire._relay, "127.0.0.1", 0)
        wire.url = url.replace(f":{parts.port}/", f":{server.sockets[0].getsockname()[1]}/")
        try:
            yield wire
        finally:
            server.close()
            for writer in wire._writers:
                writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, there_writer]
        try:
            await asyncio.gather(self._pipe(reader, there_writer), self._pipe(there_reader, writer))
        except OSError:
            pass  # One side has gone; closing the other is all there is to do.
        finally:
            writer.close()
            there_writer.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.open.wait()
            writer.write(data)
        writer.close()
