"""One shard's event stream in Redis, read through one consumer group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from gateway.quota.port import Event
from gateway.quota.redis import keys
from gateway.stores.redis import Redis, ResponseError, guarded
from gateway.stores.scripts import Scripts


class RedisStream:
    """See `EventStream`. Consumer names should be few and return after a restart: Redis remembers each."""

    def __init__(self, redis: Redis, scripts: Scripts, shard: int, timeout_s: float) -> None:
        self._redis = redis
        self._scripts = scripts
        self._keys = keys.of_shard(shard)
        self._events = keys.events(shard)
        self._timeout_s = timeout_s

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Event]:
        """See the port. Waits at most half the deadline of a call, so that an idle stream does not cause a timeout."""
        wait_ms = min(block_ms, int(self._timeout_s * 500)) or None
        reply = await self._in_group(
            lambda: self._redis.xreadgroup(keys.GROUP, consumer, {self._events: ">"}, count=count, block=wait_ms)
        )
        return _events(reply[0][1]) if reply else []

    async def claim(self, consumer: str, count: int, idle_ms: int) -> list[Event]:
        """See the port."""
        reply = await self._in_group(
            lambda: self._redis.xautoclaim(self._events, keys.GROUP, consumer, min_idle_time=idle_ms, count=count)
        )
        return _events(reply[1])

    async def acknowledge(self, ids: Sequence[str]) -> int:
        """See the port."""
        return int(await self._scripts.run("acknowledge", self._keys, keys.GROUP, *ids)) if ids else 0

    async def _in_group(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """The reply. Creates the group when it is missing: at the first start, and after Redis lost its data."""
        async with guarded(self._timeout_s):
            try:
                return await command()
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            try:
                await self._redis.xgroup_create(self._events, keys.GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            return await command()


def _events(entries: Iterable[tuple[bytes | None, dict[bytes, bytes] | None]]) -> list[Event]:
    # Redis 6.2 returns None for an event that was deleted while it was pending.
    return [
        Event(each.decode(), fields.get(b"e", b"").decode("utf-8", "replace"))
        for each, fields in entries
        if each is not None and fields is not None
    ]
