"""Notifications of the requests whose turn it is. A script that grants a slot to a ticket publishes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.queue.redis import keys
from gateway.stores.redis import Redis, subscription


class RedisTurns:
    """See `gateway.queue.port.Turns`."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[Callable[[float], Awaitable[str | None]]]:
        """See the port."""
        async with subscription(self._redis, keys.channel(owner), self._timeout_s) as next_message:

            async def next_turn(timeout_s: float) -> str | None:
                request_id = await next_message(timeout_s)
                return None if request_id is None else request_id.decode()

            yield next_turn
