"""The quota in Redis when Redis, or the connection to it, fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.quota.port import Backlog, Counters, Reserved
from gateway.quota.redis.quota import RedisQuota
from gateway.record.grant import seal
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Budgets, Period
from tests.gateway.quota.builders import Clock, Ledger, admitted, again, asks, denial, drain, entry, renew
from tests.gateway.quota.conftest import LEASE_S, Bench
from tests.gateway.quota.proxy import Answers, relay
from tests.redis_server import one_server


@asynccontextmanager
async def quota_at(
    url: str, ledger: Ledger, clock: Clock | None, timeout_s: float = 5.0, **options: Any
) -> AsyncIterator[RedisQuota]:
    settings = Settings(redis_url=SecretStr(url), redis_timeout_s=timeout_s, hold_lease_s=LEASE_S)
    redis = connect(settings)
    quota = RedisQuota(redis, settings, ledger.load, clock=clock, restore_s=0, **options)
    try:
        yield quota
    finally:
        await quota.aclose()
        await redis.aclose()


async def test_the_default_clock_is_that_of_redis(redis_bench: Bench, redis_client: Any, redis_url: str) -> None:
    def time_ms() -> int:
        seconds, microseconds = redis_client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async with quota_at(redis_url, Ledger(), None) as quota:
        before = time_ms()
        answer = await quota.admit(asks())
        assert isinstance(answer, Reserved)
        assert before <= answer.admitted_at_ms <= time_ms()
        assert await quota.expired(10) == []


async def test_without_redis_every_call_is_unavailable() -> None:
    with one_server() as server:
        async with quota_at(server.url, ledger := Ledger(), Clock()) as quota:
            hold = await admitted(quota, asks())
            server.kill()
            stream = quota.streams[0]
            for call in (
                quota.admit(asks()),
                renew(quota, hold),
                quota.settle(entry(hold)),
                quota.release("r", 1, 11),
                quota.record(denial()),
                quota.expired(1),
                quota.counters(1),
                quota.backlog(),
                stream.read("test", 1, 10),
                stream.claim("test", 1, 0),
                stream.acknowledge(["0-1"]),
            ):
                with pytest.raises(StoreUnavailable):
                    await call
            server.start()
            assert await quota.settle(entry(hold))
            await admitted(quota, asks())
            assert await drain(quota, ledger) == 1


async def test_after_a_restart_holds_remain_and_the_counters_are_rebuilt_from_the_ledger() -> None:
    with one_server("--appendonly", "yes", "--appendfsync", "always") as server:
        ledger = Ledger()
        async with quota_at(server.url, ledger, Clock()) as quota:
            running, other = await admitted(quota, asks()), await admitted(quota, asks())
            assert await quota.settle(entry(other, output_tokens=20))
            elsewhere = await admitted(quota, asks(tenant=2))
            server.kill()
            # Represents an event that was drained after the last write that reached the disk.
            lost = entry(elsewhere, output_tokens=300)
            ledger.entries["lost"] = lost.from_json(
                lost.to_json().replace('"tenant_id":2', '"tenant_id":1').replace(elsewhere.request_id, "lost")
            )
            server.start()
            third = await admitted(quota, asks())
            counters = await quota.counters(1)
            assert counters is not None
            assert counters.used[None, Period.TOTAL] == 30 + 310
            assert counters.in_flight == {None: 2, 11: 2}
            for hold in (running, third, elsewhere):
                assert await quota.settle(entry(hold))
            assert await quota.backlog() == Backlog(holds=0, events=4)


async def test_scripts_that_redis_has_lost_are_sent_again(redis_bench: Bench, redis_client: Any) -> None:
    await admitted(redis_bench.quota, asks())
    redis_client.script_flush()
    await admitted(redis_bench.quota, asks())


async def test_out_of_memory_admits_nothing_and_still_settles(redis_bench: Bench, redis_client: Any) -> None:
    quota = redis_bench.quota
    hold = await admitted(quota, asks())
    redis_bench.clock.forward(61)
    before = await quota.counters(1)
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable):
            await quota.admit(asks())
        assert await quota.counters(1) == before
        assert await quota.settle(entry(hold))
    finally:
        redis_client.config_set("maxmemory", 0)
    assert await quota.backlog() == Backlog(holds=0, events=1)
    await admitted(quota, asks())


async def test_an_admission_whose_reply_is_lost_holds_nothing(redis_bench: Bench, redis_client: Any) -> None:
    await admitted(redis_bench.quota, asks())
    before = await redis_bench.quota.counters(1), await redis_bench.quota.backlog()
    async with (
        relay(redis_client.get_connection_kwargs()["port"]) as (through, url),
        quota_at(url, Ledger(), Clock(), timeout_s=0.3) as quota,
    ):
        await quota.backlog()
        through.answers = Answers.VANISH_ONCE
        with pytest.raises(StoreUnavailable):
            await quota.admit(asks())
        await quota.aclose()
        assert through.lost == 1
        assert (await quota.counters(1), await quota.backlog()) == before
        await admitted(quota, asks())


async def test_a_cancelled_admission_holds_nothing(redis_bench: Bench, redis_client: Any) -> None:
    await admitted(redis_bench.quota, asks())
    async with (
        relay(redis_client.get_connection_kwargs()["port"]) as (through, url),
        quota_at(url, Ledger(), Clock()) as quota,
    ):
        await quota.backlog()
        through.answers = Answers.VANISH_ONCE
        waiting = asyncio.create_task(quota.admit(asks()))
        async with asyncio.timeout(10):
            await through.one_lost.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await quota.aclose()
        assert await quota.backlog() == Backlog(holds=1, events=0)


async def test_a_hold_that_could_not_be_released_expires(redis_bench: Bench, redis_client: Any) -> None:
    await admitted(redis_bench.quota, settled := asks())
    orphan = asks()
    async with (
        relay(redis_client.get_connection_kwargs()["port"]) as (through, url),
        quota_at(url, Ledger(), Clock(), timeout_s=0.3, releases_max=0) as quota,
    ):
        # The first call loads the functions.
        await quota.counters(1)
        through.answers = Answers.VANISH
        with pytest.raises(StoreUnavailable):
            await quota.admit(orphan)
    redis_bench.clock.forward(LEASE_S)
    lost = await redis_bench.quota.expired(10)
    assert {each.hold.request_id for each in lost} == {orphan.request_id, settled.request_id}
    for each in lost:
        hold = each.hold
        assert hold.grant_json == seal(orphan.grant_draft, hold.admitted_at_ms, hold.input_tokens, hold.output_cap)
        assert await redis_bench.quota.settle(entry(each.hold, input_tokens=0), only_if_expired=True)
    assert await redis_bench.quota.counters(1) == Counters({}, {}, {})


async def test_an_admission_that_the_driver_repeats_after_a_broken_connection_holds_once(
    redis_bench: Bench, redis_client: Any
) -> None:
    await admitted(redis_bench.quota, asks())
    async with (
        relay(redis_client.get_connection_kwargs()["port"]) as (through, url),
        quota_at(url, Ledger(), Clock()) as quota,
    ):
        await admitted(quota, asks())
        through.answers = Answers.BREAK_ONCE
        admission = asks(budgets=Budgets(day=1000))
        answer = await quota.admit(admission)
        assert through.lost == 1
        assert isinstance(answer, Reserved)
        assert (answer.output_cap, answer.limit_status.budget_remaining) == (90, 700)
        counters = await quota.counters(1)
        assert counters is not None
        assert counters.in_flight == {None: 3, 11: 3}
        with pytest.raises(StoreUnavailable):
            await quota.admit(admission)
        await admitted(quota, again(admission))
