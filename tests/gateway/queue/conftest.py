"""Both implementations behind one fixture, so that one test body runs against each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from gateway.queue.port import Queue, QueueRules
from gateway.queue.redis.queue import RedisQueue
from gateway.stores.redis import Redis, connect
from tests.gateway.queue.builders import RULES, settings_for
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.quota.builders import Clock


@dataclass
class Bench:
    """A queue, its clock, and a way to lose all that the store has."""

    queue: Queue
    clock: Clock
    lose: Callable[[], object]


@pytest.fixture
def rules() -> QueueRules:
    """The bounds of the queue."""
    return RULES


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Any]:
    """A plain client. `Any`, because redis-py leaves raw commands untyped."""
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        client.flushall()
        yield client


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Redis]:
    """The client of the services. The deadline is generous: the machine may be busy."""
    redis = connect(settings_for(redis_url))
    yield redis
    await redis.aclose()


@pytest.fixture
def redis_bench(connection: Redis, redis_client: Any, rules: QueueRules) -> Bench:
    """The queue in Redis."""
    clock = Clock()
    return Bench(RedisQueue(connection, 5.0, rules, clock), clock, redis_client.flushall)


@pytest.fixture
def memory_bench(rules: QueueRules) -> Bench:
    """The queue in memory."""
    clock = Clock()
    queue = MemoryQueue(clock, rules)
    return Bench(queue, clock, queue.lose_everything)


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each implementation in turn."""
    chosen: Bench = request.getfixturevalue(f"{request.param}_bench")
    return chosen
