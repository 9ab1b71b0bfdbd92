"""Both implementations behind one fixture, so that one test body runs against each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from gateway.quota import rebuild
from gateway.quota.port import Quota
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import connect
from tests.gateway.quota.model.quota import MemoryQuota

from .builders import Clock, Ledger

LEASE_S = 15.0
BACKLOG_MAX = 1000


@dataclass
class Bench:
    """A quota, its clock, the ledger behind it, and a way to lose all that the store has."""

    quota: Quota
    clock: Clock
    ledger: Ledger
    lose: Callable[[], object]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets an admission wait longer for a rebuild, but less than a rebuild that was left behind would block it."""
    monkeypatch.setattr(rebuild, "WAIT_S", rebuild.REBUILD_S - 1)


@pytest.fixture
def backlog_max() -> int:
    """How many holds and events there may be."""
    return BACKLOG_MAX


@pytest.fixture
def settings(redis_url: str, backlog_max: int) -> Settings:
    """Settings for the shared server. The deadline is generous: the machine may be busy."""
    return Settings(
        redis_url=SecretStr(redis_url), redis_timeout_s=5.0, hold_lease_s=LEASE_S, audit_buffer_size=backlog_max
    )


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Any]:
    """A plain client, to look behind the quota's back. `Any`, because redis-py leaves raw commands untyped."""
    with Redis.from_url(redis_url, socket_timeout=5) as client:
        yield client


@pytest.fixture
async def redis_bench(redis_url: str, redis_client: Any, settings: Settings) -> AsyncIterator[Bench]:
    """The quota in Redis."""
    redis_client.flushall()
    redis = connect(settings)
    clock, ledger = Clock(), Ledger()
    quota = RedisQuota(redis, settings, ledger.load, clock=clock, restore_s=0)
    yield Bench(quota, clock, ledger, redis_client.flushall)
    await quota.aclose()
    await redis.aclose()


@pytest.fixture
async def memory_bench(backlog_max: int) -> AsyncIterator[Bench]:
    """The quota in memory."""
    clock, ledger = Clock(), Ledger()
    quota = MemoryQuota(now_ms=clock, lease_s=LEASE_S, backlog_max=backlog_max, load=ledger.load, restore_s=0)
    yield Bench(quota, clock, ledger, quota.lose_everything)
    await quota.aclose()


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each implementation in turn."""
    chosen: Bench = request.getfixturevalue(f"{request.param}_bench")
    return chosen
