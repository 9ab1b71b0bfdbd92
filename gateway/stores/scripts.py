"""Lua scripts in Redis. Each is called by digest, and sent in full when Redis does not know it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from gateway.metrics.stores import REDIS_SCRIPT_SECONDS
from gateway.stores.pipeline.call import ReplyError
from gateway.stores.pipeline.connection import pack
from gateway.stores.redis import Redis, unavailable

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Library:
    """The scripts in the folder `lua` of a package. `shared` names those that precede each of them, in this order.

    `lua/server.lua` of this package precedes them all.
    """

    package: str
    shared: tuple[str, ...]


@cache
def source(library: Library, name: str) -> tuple[str, str]:
    """The text of a script and its SHA-1, by which Redis identifies it."""
    folder = files(library.package) / "lua"
    parts = [files(__package__) / "lua" / "server.lua", *(folder / f"{part}.lua" for part in (*library.shared, name))]
    text = "".join(part.read_text("utf-8") for part in parts)
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Runs scripts, each call within the deadline of `redis`.

    `clock` (ms since 1970) replaces Redis' own in tests only.
    """

    def __init__(self, redis: Redis, library: Library, clock: Clock | None = None) -> None:
        self._redis = redis
        self._library = library
        self._clock = clock

    async def run(self, name: str, keys: Sequence[str], *arguments: str | int) -> Any:
        """The script's reply. Its first argument is the time, see `server.lua`. Raises StoreUnavailable.

        The keys, of which there is at least one, are in one slot.
        """
        text, digest = source(self._library, name)
        now_ms = self._clock() if self._clock else 0
        values = (len(keys), *keys, now_ms, *arguments)
        started_s = time.perf_counter()
        try:
            try:
                reply = await self._redis.calls.call(keys[0], pack(("EVALSHA", digest, *values)))
            except ReplyError as error:
                if error.code != "NOSCRIPT":
                    raise
                reply = await self._redis.calls.call(keys[0], pack(("EVAL", text, *values)))
        except (ReplyError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
        REDIS_SCRIPT_SECONDS.labels(name).observe(time.perf_counter() - started_s)
        return reply
