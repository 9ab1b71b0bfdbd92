"""Notifications of the requests whose turn it is. A script that grants a slot to a ticket publishes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.queue.redis import keys
from gateway.stores.redis import Redis, guarded


class RedisTurns:
    """See `gateway.queue.port.Turns`."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[Callable[[float], Awaitable[str | None]]]:
        """See the port."""
        async with self._redis.pubsub() as listener:

            async def next_turn(timeout_s: float) -> str | None:
                async with guarded(timeout_s + self._timeout_s):
                    message = await listener.get_message(ignore_subscribe_messages=True, timeout=timeout_s)
                return message["data"].decode() if message else None

            async with guarded(self._timeout_s):
                await listener.subscribe(keys.channel(owner))
                # Redis confirms the subscription. Every later publication is received.
                while await listener.get_message(timeout=self._timeout_s) is None:
                    pass
            yield next_turn
