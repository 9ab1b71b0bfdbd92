"""A TCP relay in front of Redis that can lose the replies of commands that Redis has executed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum


class Answers(Enum):
    """The fate of Redis' replies."""

    ARRIVE = "arrive"
    VANISH = "vanish"
    VANISH_ONCE = "the next one and all later ones of its connection vanish, those of other connections arrive"
    BREAK_ONCE = "the next one breaks its connection, later ones arrive"


class Relay:
    """Relays connections to `port`. `lost` counts the replies that did not arrive."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers = Answers.ARRIVE
        self.lost = 0
        self.one_lost = asyncio.Event()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client."""
        to_redis = await asyncio.open_connection("127.0.0.1", self._port)
        forth = asyncio.create_task(self._copy(reader, to_redis[1]))
        # TCP loses no bytes between others.
        is_silent = False
        try:
            while data := await to_redis[0].read(65536):
                if is_silent:
                    continue
                if self.answers is Answers.ARRIVE:
                    writer.write(data)
                    continue
                self.lost += 1
                self.one_lost.set()
                how, self.answers = self.answers, Answers.ARRIVE
                if how is Answers.BREAK_ONCE:
                    break
                if how is Answers.VANISH:
                    self.answers = how
                is_silent = True
        finally:
            forth.cancel()
            writer.close()
            to_redis[1].close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def relay(port: int) -> AsyncIterator[tuple[Relay, str]]:
    """A relay and the URL to reach Redis through it."""
    through = Relay(port)
    async with await asyncio.start_server(through.connected, "127.0.0.1", 0) as listener:
        host, own_port = listener.sockets[0].getsockname()
        yield through, f"redis://{host}:{own_port}/0"
