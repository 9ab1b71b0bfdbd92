"""Calls of Lua scripts in Redis, as functions where the server has them. See `gateway.stores.library`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gateway.metrics.stores import REDIS_SCRIPT_SECONDS
from gateway.stores.library import Library
from gateway.stores.pipeline.call import ReplyError
from gateway.stores.pipeline.connection import pack
from gateway.stores.redis import Redis, unavailable

Clock = Callable[[], int]

# The code ERR has no finer distinction than these texts, which are the same in Redis 7, Redis 8 and Valkey.
_ALREADY_LOADED = "already exists"
_NOT_LOADED = "Function not found"
_UNKNOWN = "unknown command"


class Scripts:
    """Runs scripts of `library`, each call to Redis within the deadline of `redis`.

    The library is loaded before the first call, and again into each server that turns out not to have it. Once a server
    has no functions or does not permit them, scripts are called by their digest from then on, and sent in full when the
    server does not know them.

    `clock` (ms since 1970) replaces Redis' own in tests only.
    """

    def __init__(self, redis: Redis, library: Library, clock: Clock | None = None) -> None:
        self._redis = redis
        self._library = library
        self._clock = clock
        # Whether the servers have functions, None until the first call.
        self._has_functions: bool | None = None
        # By the first key of the calls that wait for it, because a cluster has several servers.
        self._loading: dict[str, asyncio.Future[bool]] = {}

    async def run(self, name: str, keys: Sequence[str], *arguments: str | int) -> Any:
        """The script's reply. Its first argument is the time, see `server.lua`. Raises StoreUnavailable.

        The keys, of which there is at least one, are in one slot.
        """
        now_ms = self._clock() if self._clock else 0
        values = (len(keys), *keys, now_ms, *arguments)
        started_s = time.perf_counter()
        try:
            if self._has_functions or (self._has_functions is None and await self._load(keys[0])):
                reply = await self._call_function(name, keys[0], values)
            else:
                reply = await self._call_script(name, keys[0], values)
        except (ReplyError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
        REDIS_SCRIPT_SECONDS.labels(name).observe(time.perf_counter() - started_s)
        return reply

    async def _call_function(self, name: str, key: str, values: tuple[str | int, ...]) -> Any:
        command = pack(("FCALL", self._library.function(name), *values))
        for may_load in (True, False):
            try:
                return await self._redis.calls.call(key, command)
            except ReplyError as error:
                if error.code == "NOPERM" or error.detail.startswith(_UNKNOWN):
                    self._has_functions = False
                elif not error.detail.startswith(_NOT_LOADED):
                    raise
            # Another server may have the key by the second call.
            if not (self._has_functions and may_load and await self._load(key)):
                break
        return await self._call_script(name, key, values)

    async def _call_script(self, name: str, key: str, values: tuple[str | int, ...]) -> Any:
        script = self._library.script(name)
        try:
            return await self._redis.calls.call(key, pack(("EVALSHA", script.digest, *values)))
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        return await self._redis.calls.call(key, pack(("EVAL", script.text, *values)))

    async def _load(self, key: str) -> bool:
        """Loads the library into the server of `key`. Returns whether it has the functions. Calls share one loading."""
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.ensure_future(self._load_now(key))
            loading.add_done_callback(partial(self._on_loaded, key))
        return await asyncio.shield(loading)

    async def _load_now(self, key: str) -> bool:
        try:
            await self._redis.calls.call(key, pack(("FUNCTION", "LOAD", self._library.text)))
        except ReplyError as error:
            if _ALREADY_LOADED not in error.detail:
                # Other codes are of a state that passes, such as LOADING or OOM.
                if error.code in ("ERR", "NOPERM"):
                    self._has_functions = False
                return False
        self._has_functions = True
        return True

    def _on_loaded(self, key: str, loading: asyncio.Future[bool]) -> None:
        del self._loading[key]
        if not loading.cancelled():
            loading.exception()  # Retrieved here too, in case every call that waited for it has ended.
