"""Both implementations behind one fixture, so that one test body runs against each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from gateway.quota import rebuild
from gateway.quota.port import Quota
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import Redis, connect
from tests.gateway.quota.model.quota import MemoryQuota

from .builders import Clock, Ledger, settings_for

LEASE_S = 15.0
# Longer than the default, because the machine may be busy, but less than a lost rebuild would block an admission.
REBUILD_WAIT_S = rebuild.REBUILD_S - 1
BACKLOG_MAX = 1000


@dataclass
class Bench:
    """A quota, its clock, the ledger that it reads, and a way to lose all that the store has."""

    quota: Quota
    clock: Clock
    ledger: Ledger
    lose: Callable[[], object]
    connection: Redis | None = None


@pytest.fixture
def backlog_max() -> int:
    """How many events may wait."""
    return BACKLOG_MAX


@pytest.fixture
def running_max() -> int:
    """How many holds there may be."""
    return BACKLOG_MAX


@pytest.fixture
def settings(redis_url: str, backlog_max: int, running_max: int) -> Settings:
    """Settings for the shared server."""
    return settings_for(redis_url, LEASE_S, backlog_max, running_max)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Any]:
    """A plain client, to look behind the quota's back. `Any`, because redis-py leaves raw commands untyped."""
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        yield client


@pytest.fixture
async def redis_bench(redis_url: str, redis_client: Any, settings: Settings) -> AsyncIterator[Bench]:
    """The quota in Redis."""
    redis_client.flushall()
    connection = connect(settings)
    clock, ledger = Clock(), Ledger()
    quota = RedisQuota(connection, settings, ledger.load, clock=clock, restore_s=0, rebuild_wait_s=REBUILD_WAIT_S)
    yield Bench(quota, clock, ledger, redis_client.flushall, connection)
    await quota.aclose()
    await connection.aclose()


@pytest.fixture
async def memory_bench(backlog_max: int, running_max: int) -> AsyncIterator[Bench]:
    """The quota in memory."""
    clock, ledger = Clock(), Ledger()
    quota = MemoryQuota(
        now_ms=clock,
        lease_s=LEASE_S,
        backlog_max=backlog_max,
        running_max=running_max,
        load=ledger.load,
        restore_s=0,
        rebuild_wait_s=REBUILD_WAIT_S,
    )
    yield Bench(quota, clock, ledger, quota.lose_everything)
    await quota.aclose()


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each implementation in turn."""
    chosen: Bench = request.getfixturevalue(f"{request.param}_bench")
    return chosen
