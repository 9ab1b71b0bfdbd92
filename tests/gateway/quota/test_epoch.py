"""After the store lost data, nothing is admitted until holds and entries have been resubmitted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.quota.port import RESTORE_S
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Budgets, Outcome, Period
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, denial, drain, entry, renew
from tests.gateway.quota.conftest import BACKLOG_MAX, LEASE_S, Bench
from tests.gateway.quota.model.quota import MemoryQuota
from tests.redis_server import one_server


@pytest.fixture
async def memory() -> AsyncIterator[Bench]:
    clock, ledger = Clock(), Ledger()
    quota = MemoryQuota(now_ms=clock, lease_s=LEASE_S, backlog_max=BACKLOG_MAX, load=ledger.load)
    yield Bench(quota, clock, ledger, quota.lose_everything)
    await quota.aclose()


@pytest.fixture
async def redis(redis_client: Any, settings: Settings) -> AsyncIterator[Bench]:
    redis_client.flushall()
    connection = connect(settings)
    clock, ledger = Clock(), Ledger()
    quota = RedisQuota(connection, settings, ledger.load, clock=clock)
    yield Bench(quota, clock, ledger, redis_client.flushall)
    await quota.aclose()
    await connection.aclose()


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield request.getfixturevalue(request.param)


async def not_yet(bench: Bench) -> None:
    """An admission is denied when the epoch does not open while it waits."""
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(asks())


async def opened(bench: Bench) -> str:
    """The name of the epoch, once it admits."""
    epoch = await bench.quota.epoch()
    bench.clock.forward(epoch.opens_in_s)
    return epoch.name


async def test_a_new_epoch_opens_after_the_restore_time_and_keeps_its_name(bench: Bench) -> None:
    first = await bench.quota.epoch()
    assert first.opens_in_s == RESTORE_S
    bench.clock.forward(1)
    assert (await bench.quota.epoch()).opens_in_s == RESTORE_S - 1
    bench.clock.forward(1)
    second = await bench.quota.epoch()
    assert (second.name, second.opens_in_s) == (first.name, 0)


async def test_nothing_is_admitted_before_the_epoch_opens(bench: Bench) -> None:
    await not_yet(bench)
    await opened(bench)
    await admitted(bench.quota, asks())


async def test_a_loss_begins_a_new_epoch_in_which_nothing_is_admitted_at_first(bench: Bench) -> None:
    before = await opened(bench)
    await admitted(bench.quota, asks())
    bench.clock.forward(1)
    bench.lose()
    await not_yet(bench)
    assert await opened(bench) != before
    await admitted(bench.quota, asks())


async def test_entries_resubmitted_before_the_epoch_opens_count_once(bench: Bench) -> None:
    await opened(bench)
    holds = [await admitted(bench.quota, asks(input_tokens=0)) for _ in range(3)]
    running = await admitted(bench.quota, asks(input_tokens=0, output=40))
    finished = [entry(hold, output_tokens=10) for hold in holds]
    for each in finished:
        assert await bench.quota.settle(each)
    [stream] = bench.quota.streams
    [event] = await stream.read("test", 1, 0)
    bench.lose()
    await bench.quota.epoch()
    # The first entry was recorded unnoticed, the second is recorded after it is resubmitted, the third never was.
    bench.ledger.append([event])
    for each in finished:
        assert await bench.quota.settle(each)
    assert await renew(bench.quota, running)
    bench.ledger.entries[finished[1].request_id] = finished[1]
    await opened(bench)
    answer = await bench.quota.admit(asks(input_tokens=0, output=40, tenant_budgets=Budgets(day=100)))
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert counters.used[None, Period.DAY] == 30
    assert counters.held[None, Period.DAY] == 40 + 30
    assert answer.limit_status.budget_remaining == 0
    await drain(bench.quota, bench.ledger)
    assert len(bench.ledger.entries) == 3


async def test_entries_resubmitted_after_the_epoch_opened_count_once(bench: Bench) -> None:
    await opened(bench)
    first, second = [entry(await admitted(bench.quota, asks(input_tokens=0)), output_tokens=10) for _ in range(2)]
    assert await bench.quota.settle(first)
    assert await bench.quota.settle(second)
    [stream] = bench.quota.streams
    [recorded] = await stream.read("test", 1, 0)
    bench.ledger.append([recorded])
    bench.lose()
    await opened(bench)
    await admitted(bench.quota, asks(input_tokens=0))
    for each in (first, second):
        assert await bench.quota.settle(each)
        assert not await bench.quota.settle(each)
    await drain(bench.quota, bench.ledger)
    assert await bench.quota.counters(1) is None
    await admitted(bench.quota, asks(input_tokens=0))
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert counters.used[None, Period.DAY] == 20
    assert counters.in_flight[None] == 2


async def test_a_restart_begins_a_new_epoch() -> None:
    with one_server("--appendonly", "yes", "--appendfsync", "always") as server:
        clock = Clock()
        settings = Settings(redis_url=SecretStr(server.url), redis_timeout_s=5.0)
        connection = connect(settings)
        quota = RedisQuota(connection, settings, Ledger().load, clock=clock)
        bench = Bench(quota, clock, Ledger(), server.kill)
        before = await opened(bench)
        await admitted(quota, asks())
        server.kill()
        server.start()
        await not_yet(bench)
        assert await opened(bench) != before
        await admitted(quota, asks())
        await quota.aclose()
        await connection.aclose()


async def test_a_resubmitted_denial_has_one_event(bench: Bench) -> None:
    denied = denial()
    await bench.quota.record(denied)
    await bench.quota.record(denied)
    assert (await bench.quota.backlog()).events == 1
    bench.lose()
    await bench.quota.record(denied)
    assert (await bench.quota.backlog()).events == 1


async def test_a_denial_after_a_release_is_recorded(bench: Bench) -> None:
    await opened(bench)
    hold = await admitted(bench.quota, asks())
    assert await bench.quota.release(hold.request_id, hold.tenant_id, hold.key_id)
    await bench.quota.record(entry(hold, outcome=Outcome.DENIED))
    assert (await bench.quota.backlog()).events == 1
