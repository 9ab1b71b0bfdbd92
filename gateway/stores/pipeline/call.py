"""A call to Redis and the errors that it ends with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

# How often a call is sent again after its connection broke, or after its server turned out to be a replica.
REPEATS = 1


class ReplyError(Exception):
    """An error reply of Redis, such as `NOSCRIPT No matching script.`"""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code, _, self.detail = text.partition(" ")

    @property
    def is_from_replica(self) -> bool:
        """Whether the server refused to write because it is a replica. Redis 6 reports that within a script's error."""
        return self.code == "READONLY" or "-READONLY " in self.detail


@dataclass(slots=True, eq=False)
class Call:
    """One command in RESP, the future of its reply, and its deadline on the clock of the event loop (s).

    A future that is done, because its caller was cancelled or its deadline passed, has no use for the reply.
    """

    command: bytes
    future: asyncio.Future[Any]
    deadline_s: float
    # Whether the server receives ASKING directly before it, which a redirection by ASK requires.
    asks: bool = False
    repeats_left: int = REPEATS

    def fail(self, error: Exception) -> None:
        """Ends the call with `error`, unless it has ended."""
        if not self.future.done():
            self.future.set_exception(error)


class Calls(Protocol):
    """Sends commands to the server of a key."""

    def call(self, key: str, command: bytes) -> Awaitable[Any]:
        """The reply to a command in RESP on `key` and keys of its slot.

        Raises ReplyError, TimeoutError, or OSError when the server cannot be reached. A command whose connection breaks
        may be executed twice, so commands must be idempotent.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections. Calls without a reply fail."""
        ...
