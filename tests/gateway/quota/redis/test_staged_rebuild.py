"""A rebuild in Redis takes several calls. Regardless of what happens between them, it installs all sums or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.quota.port import Hold
from gateway.quota.rebuild import BegunRebuild, NotBegun
from gateway.quota.redis import keys
from gateway.quota.redis.quota import FIELDS_SLICE, SCRIPTS, RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import Redis, connect
from gateway.stores.scripts import Scripts
from gateway.values import Period
from tests.gateway.quota.builders import NOON_MS, Clock, Ledger, admitted, asks, drain, entry
from tests.gateway.quota.conftest import REBUILD_WAIT_S, Bench
from tests.gateway.quota.redis.test_faults import quota_at
from tests.redis_server import one_server

COUNTERS, REBUILD, STAGED = (f"nz:{{s0}}:{name}:1" for name in ("counters", "rebuild", "staged"))
KEYS_OF_TENANT = keys.of_tenant(0, 1)


class Process:
    """A process that rebuilds the counters of tenant 1, call by call, with wrong sums: two, each of 777 tokens."""

    def __init__(self, redis: Redis, quota: RedisQuota) -> None:
        self.quota = quota
        self._scripts = Scripts(redis, SCRIPTS, Clock())
        self._begun: BegunRebuild | None = None

    async def begin(self) -> None:
        """Begins the rebuild."""
        begun = await self.quota.begin_rebuild(1)
        assert isinstance(begun, BegunRebuild)
        self._begun = begun

    @property
    def begun(self) -> BegunRebuild:
        """The rebuild."""
        assert self._begun is not None
        return self._begun

    async def stage(self) -> bool:
        """Stages the first sum."""
        arguments = self.begun.token, 5000, "used:k12:day:2025-11-21", 777
        return bool(await self._scripts.run("stage_rebuild", KEYS_OF_TENANT, *arguments))

    async def commit(self) -> bool:
        """Adds the second sum and installs both."""
        arguments = self.begun.token, "2025-11-21", 2, "used:k11:day:2025-11-21", 777
        return bool(await self._scripts.run("commit_rebuild", KEYS_OF_TENANT, *arguments))


@pytest.fixture
async def quota(redis_bench: Bench, settings: Settings) -> AsyncIterator[RedisQuota]:
    """The quota of another process."""
    connection = connect(settings)
    load, clock = redis_bench.ledger.load, redis_bench.clock
    quota = RedisQuota(connection, settings, load, clock=clock, restore_s=0, rebuild_wait_s=REBUILD_WAIT_S)
    yield quota
    await quota.aclose()
    await connection.aclose()


@pytest.fixture
async def process(redis_bench: Bench, quota: RedisQuota) -> Process:
    """Another process, which has begun a rebuild and staged the first sum."""
    assert redis_bench.connection is not None
    process = Process(redis_bench.connection, quota)
    await process.begin()
    assert await process.stage()
    return process


async def test_without_interruption_the_staged_sums_are_installed(process: Process, redis_client: Any) -> None:
    assert await process.commit()
    counters = await process.quota.counters(1)
    assert counters is not None
    assert counters.used == {(12, Period.DAY): 777, (11, Period.DAY): 777}
    assert redis_client.ttl(COUNTERS) == -1
    assert not redis_client.exists(REBUILD, STAGED)


async def test_a_rebuild_after_a_crash_before_the_commit_starts_anew(
    redis_bench: Bench, process: Process, redis_client: Any
) -> None:
    staged_ms = redis_client.pttl(STAGED)
    assert 0 < redis_client.pttl(REBUILD) <= staged_ms <= 5000
    redis_client.delete(REBUILD)
    await redis_bench.quota.settle(entry(await admitted(redis_bench.quota, asks(input_tokens=0)), output_tokens=5))
    counters = await redis_bench.quota.counters(1)
    assert counters is not None
    assert set(counters.used.values()) == {5}
    assert redis_bench.ledger.loads == 1
    assert not await process.stage()
    assert not await process.commit()
    assert await redis_bench.quota.counters(1) == counters


async def test_a_process_whose_rebuild_is_void_does_not_void_the_next_one(
    redis_bench: Bench, process: Process, redis_client: Any
) -> None:
    redis_client.delete(REBUILD)
    assert redis_bench.connection is not None
    assert isinstance(redis_bench.quota, RedisQuota)
    second = Process(redis_bench.connection, redis_bench.quota)
    await second.begin()
    await process.quota.abort_rebuild(1, process.begun)
    assert await redis_bench.quota.begin_rebuild(1) is NotBegun.BUSY
    assert await second.stage()
    assert await second.commit()


async def test_what_happens_before_the_commit_voids_the_rebuild(
    redis_bench: Bench, quota: RedisQuota, redis_client: Any
) -> None:
    async def settle() -> None:
        await redis_bench.quota.settle(entry(Hold("late", 1, 11, NOON_MS, 0, 0, ""), output_tokens=3))

    async def invalidate() -> None:
        await redis_bench.quota.invalidate_counters(1)

    async def lose_everything() -> None:
        redis_client.flushall()

    async def lose_what_was_staged() -> None:
        redis_client.delete(STAGED)

    assert redis_bench.connection is not None
    interruptions: list[Callable[[], Awaitable[None]]] = [settle, invalidate, lose_everything, lose_what_was_staged]
    for interrupt in interruptions:
        process = Process(redis_bench.connection, quota)
        await process.begin()
        assert await process.stage()
        await interrupt()
        assert not await process.commit(), interrupt
        assert await quota.counters(1) is None
        await quota.abort_rebuild(1, process.begun)
        assert not redis_client.exists(REBUILD)


async def test_a_restart_before_the_commit_voids_the_rebuild() -> None:
    with one_server("--appendonly", "yes", "--appendfsync", "always") as server:
        ledger = Ledger()
        async with quota_at(server.url, ledger, Clock(), rebuild_wait_s=REBUILD_WAIT_S) as quota:
            connection = connect(Settings(redis_url=server.url, redis_timeout_s=5.0))
            process = Process(connection, quota)
            await process.begin()
            assert await process.stage()
            with server.client() as client:
                client.persist(REBUILD)
                client.persist(STAGED)
            server.kill()
            server.start()
            with server.client() as client:
                assert client.exists(REBUILD, STAGED) == 2
                assert not await process.stage()
                assert not await process.commit()
                assert await quota.counters(1) is None
                client.delete(REBUILD)
            await admitted(quota, asks())
            counters = await quota.counters(1)
            assert counters is not None
            assert counters.used == {}
            await connection.aclose()


async def test_processes_that_rebuild_at_once_while_requests_settle_count_each_once(
    redis_bench: Bench, quota: RedisQuota
) -> None:
    """Also when the ledger records the settlements meanwhile."""
    many = {
        f"by{key}": entry(Hold(f"by{key}", 1, key, NOON_MS, 0, 0, ""), output_tokens=1) for key in range(FIELDS_SLICE)
    }
    redis_bench.ledger.entries |= many
    holds = [await admitted(redis_bench.quota, asks(input_tokens=0)) for _ in range(40)]

    async def settle() -> None:
        for hold in holds:
            assert await redis_bench.quota.settle(entry(hold, output_tokens=10))
            await asyncio.sleep(0.002)

    async def invalidate() -> None:
        for _ in range(10):
            await redis_bench.quota.invalidate_counters(1)
            await drain(redis_bench.quota, redis_bench.ledger)
            await asyncio.sleep(0.01)

    async def admit(chosen: Any) -> int:
        count = 0
        for _ in range(30):
            try:
                await admitted(chosen, asks(input_tokens=0))
                count += 1
            except StoreUnavailable:
                await asyncio.sleep(0.01)
        return count

    _, _, *admissions = await asyncio.gather(settle(), invalidate(), admit(redis_bench.quota), admit(quota))
    await admitted(quota, asks(input_tokens=0))
    counters = await quota.counters(1)
    assert counters is not None
    assert counters.used[None, Period.DAY] == len(many) + 10 * len(holds)
    assert counters.used[11, Period.TOTAL] == 10 * len(holds) + 1
    assert counters.in_flight[None] == sum(admissions) + 1


async def test_events_of_an_epoch_that_began_in_the_same_millisecond_are_not_counted(
    redis_bench: Bench, quota: RedisQuota
) -> None:
    assert redis_bench.connection is not None
    lost = await admitted(quota, asks())
    await quota.settle(entry(lost, input_tokens=700, output_tokens=7))
    # The rebuild for another tenant reads the event too.
    await quota.release(*_identity(await admitted(quota, asks(tenant=2, key=21))))
    await redis_bench.connection.flushall()
    await quota.release(*_identity(await admitted(quota, asks())))
    counters = await quota.counters(1)
    assert counters is not None
    assert counters.used.get((None, Period.TOTAL), 0) == 0


def _identity(hold: Hold) -> tuple[str, int, int]:
    return hold.request_id, hold.tenant_id, hold.key_id
