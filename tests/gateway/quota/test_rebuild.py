from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from gateway.errors import Code, StoreUnavailable
from gateway.quota import rebuild
from gateway.quota.port import Event, Hold, ReservationDenied, TenantUsage
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Entry
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Budgets, Period
from tests.gateway.quota.builders import NOON_MS, Clock, Ledger, admitted, again, asks, drain, entry
from tests.gateway.quota.conftest import BACKLOG_MAX, LEASE_S, REBUILD_WAIT_S, Bench
from tests.gateway.quota.model.quota import MemoryQuota


async def used(bench: Bench, key: int | None = 11, period: Period = Period.DAY) -> int:
    counters = await bench.quota.counters(1)
    assert counters is not None
    return counters.used.get((key, period), 0)


async def settle_one(bench: Bench, output_tokens: int) -> None:
    hold = await admitted(bench.quota, asks(input_tokens=0))
    assert await bench.quota.settle(entry(hold, output_tokens=output_tokens))


async def test_the_first_admission_reads_the_ledger_and_later_ones_do_not(bench: Bench) -> None:
    assert await bench.quota.counters(1) is None
    await admitted(bench.quota, asks())
    await admitted(bench.quota, asks(key=12))
    assert bench.ledger.loads == 1
    await admitted(bench.quota, asks(tenant=2, key=21))
    assert bench.ledger.loads == 2


async def test_after_a_loss_recorded_and_waiting_entries_count_once(bench: Bench) -> None:
    await settle_one(bench, 1)
    await drain(bench.quota, bench.ledger)
    await settle_one(bench, 10)
    running = await admitted(bench.quota, asks())
    bench.lose()
    assert await bench.quota.settle(entry(running, input_tokens=0, output_tokens=20))
    await settle_one(bench, 30)
    assert await used(bench) == 1 + 20 + 30
    assert await used(bench, key=None, period=Period.TOTAL) == 51


async def test_an_event_that_is_recorded_but_not_acknowledged_is_counted_once(bench: Bench) -> None:
    running = [await admitted(bench.quota, asks()) for _ in range(2)]
    bench.lose()
    for hold in running:
        await bench.quota.settle(entry(hold, input_tokens=0, output_tokens=7))
    await drain(bench.quota, bench.ledger, acknowledge=False)
    del bench.ledger.entries[running[1].request_id]
    await admitted(bench.quota, asks())
    assert await used(bench) == 14


def test_a_repeated_event_counts_once_and_a_recorded_one_not_again() -> None:
    hold = Hold("twice", 1, 11, NOON_MS, 10, 90, "")
    waiting = [entry(hold, output_tokens=5), entry(replace(hold, request_id="recorded")), entry(hold, output_tokens=7)]
    used = rebuild.total(TenantUsage((), frozenset(["recorded"])), waiting, NOON_MS)
    assert set(used.values()) == {15}


async def test_waiting_events_of_other_tenants_are_not_counted(bench: Bench) -> None:
    holds = [await admitted(bench.quota, asks(tenant=tenant)) for tenant in (1, 2)]
    bench.lose()
    for hold in holds:
        await bench.quota.settle(entry(hold, input_tokens=0, output_tokens=hold.tenant_id))
    await admitted(bench.quota, asks())
    assert await used(bench, key=None) == 1


async def test_counters_of_past_periods_are_deleted(redis_bench: Bench, redis_client: Any) -> None:
    sizes = []
    for _ in range(65):
        await settle_one(redis_bench, 10)
        sizes.append(redis_client.hlen("nz:{s0}:counters:1"))
        redis_bench.clock.forward(24 * 3600)
    assert set(sizes) == {8}


async def test_an_event_that_the_ledger_records_between_two_rebuilds_counts_once(bench: Bench) -> None:
    for tenant in (1, 2):
        await bench.quota.settle(entry(await admitted(bench.quota, asks(tenant=tenant, input_tokens=0)), 0, 9))
    await bench.quota.invalidate_counters(2)
    await admitted(bench.quota, asks(tenant=2))
    await drain(bench.quota, bench.ledger)
    await bench.quota.invalidate_counters(1)
    await settle_one(bench, 1)
    assert await used(bench) == 10


async def test_events_of_an_earlier_epoch_are_not_counted(bench: Bench) -> None:
    await settle_one(bench, 9)
    await bench.quota.invalidate_counters(1)
    await settle_one(bench, 1)
    bench.clock.forward(1)
    bench.lose()
    await settle_one(bench, 2)
    assert await used(bench) == 2


async def test_nothing_is_admitted_while_the_ledger_is_unavailable(bench: Bench) -> None:
    bench.ledger.unavailable = True
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(asks())
    assert (await bench.quota.backlog()).holds == 0
    bench.ledger.unavailable = False
    await admitted(bench.quota, asks())


async def test_an_exhausted_budget_stays_exhausted_after_a_loss(bench: Bench) -> None:
    admission = asks(tenant_budgets=Budgets(month=100))
    await bench.quota.settle(entry(await admitted(bench.quota, admission), output_tokens=90))
    await drain(bench.quota, bench.ledger)
    bench.lose()
    answer = await bench.quota.admit(again(admission))
    assert isinstance(answer, ReservationDenied)
    assert answer.code == Code.BUDGET_EXHAUSTED


async def test_usage_of_past_periods_is_not_rebuilt(bench: Bench) -> None:
    await settle_one(bench, 10)
    await drain(bench.quota, bench.ledger)
    bench.clock.forward(24 * 3600)
    bench.lose()
    await settle_one(bench, 1)
    assert [await used(bench, period=period) for period in Period] == [1, 11, 11]


async def test_an_event_that_is_not_an_entry_does_not_stop_the_rebuild(redis_bench: Bench, settings: Settings) -> None:
    redis = connect(settings)
    for text in ("{", '{"request_id": 1}', "\ud800".encode("utf-8", "surrogatepass")):
        await redis.xadd("nz:{s0}:events", {"t": "1", "e": text})
    await redis.xadd("nz:{s0}:events", {"other": "field"})
    await redis.aclose()
    await admitted(redis_bench.quota, asks())
    stream = redis_bench.quota.streams[0]
    events = await stream.read("test", 10, 0)
    assert len(events) == 4
    await stream.acknowledge([event.id for event in events])
    assert (await redis_bench.quota.backlog()).events == 0


class GatedLedger:
    """A ledger whose answer is held back until `open` is set."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.loading = asyncio.Event()
        self.open = asyncio.Event()

    async def load(self, tenant_id: int, now: datetime, waiting: Collection[str]) -> TenantUsage:
        usage = await self.ledger.load(tenant_id, now, waiting)
        self.loading.set()
        await self.open.wait()
        return usage


@pytest.fixture
def rebuild_wait_s() -> float:
    """How long an admission waits for a rebuild."""
    return REBUILD_WAIT_S


@pytest.fixture(params=["memory", "redis"])
async def gated(
    request: pytest.FixtureRequest, redis_bench: Bench, settings: Settings, rebuild_wait_s: float
) -> object:
    gate, clock = GatedLedger(Ledger()), Clock()
    if request.param == "memory":
        memory = MemoryQuota(
            now_ms=clock,
            lease_s=LEASE_S,
            backlog_max=BACKLOG_MAX,
            load=gate.load,
            restore_s=0,
            rebuild_wait_s=rebuild_wait_s,
        )
        return Bench(memory, clock, gate.ledger, memory.lose_everything), gate
    assert redis_bench.connection is not None
    quota = RedisQuota(
        redis_bench.connection, settings, gate.load, clock=clock, restore_s=0, rebuild_wait_s=rebuild_wait_s
    )
    return Bench(quota, clock, gate.ledger, redis_bench.lose), gate


async def test_a_settlement_during_a_rebuild_counts_once(gated: tuple[Bench, GatedLedger]) -> None:
    bench, gate = gated
    gate.open.set()
    running = [await admitted(bench.quota, asks(input_tokens=0)) for _ in range(2)]
    bench.lose()
    gate.open.clear()
    gate.loading.clear()
    waiting = asyncio.create_task(bench.quota.admit(asks()))
    await gate.loading.wait()
    for hold in running:
        await bench.quota.settle(entry(hold, output_tokens=50))
    await drain(bench.quota, bench.ledger)
    gate.open.set()
    await waiting
    assert await used(bench) == 100
    assert bench.ledger.loads == 3


async def test_invalidated_counters_are_rebuilt_and_a_rebuild_in_progress_is_voided(
    gated: tuple[Bench, GatedLedger],
) -> None:
    bench, gate = gated
    waiting = asyncio.create_task(bench.quota.admit(asks()))
    await gate.loading.wait()
    recorded = entry(Hold("late", 1, 11, NOON_MS, 0, 0, ""), output_tokens=50)
    bench.ledger.append([Event("0-1", recorded.to_json())])
    await bench.quota.invalidate_counters(1)
    gate.open.set()
    await waiting
    assert await used(bench) == 50
    await bench.quota.invalidate_counters(1)
    assert await bench.quota.counters(1) is None
    await admitted(bench.quota, asks())
    assert bench.ledger.loads == 3


async def test_many_requests_share_one_rebuild(gated: tuple[Bench, GatedLedger]) -> None:
    bench, gate = gated
    waiting = [asyncio.create_task(bench.quota.admit(asks())) for _ in range(20)]
    await gate.loading.wait()
    gate.open.set()
    await asyncio.gather(*waiting)
    assert bench.ledger.loads == 1
    assert (await bench.quota.backlog()).holds == 20


@pytest.mark.parametrize("rebuild_wait_s", [0.5])
async def test_a_slow_rebuild_denies_the_admissions_that_wait_and_serves_later_ones(
    gated: tuple[Bench, GatedLedger],
) -> None:
    bench, gate = gated
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(asks())
    gate.open.set()
    await admitted(bench.quota, asks())
    assert bench.ledger.loads == 1


async def test_two_processes_rebuild_one_after_the_other(redis_bench: Bench, settings: Settings) -> None:
    gate = GatedLedger(Ledger())
    assert redis_bench.connection is not None
    other = RedisQuota(redis_bench.connection, settings, gate.load, clock=redis_bench.clock, restore_s=0)
    first = asyncio.create_task(other.admit(asks()))
    await gate.loading.wait()
    second = asyncio.create_task(redis_bench.quota.admit(asks()))
    gate.open.set()
    await asyncio.gather(first, second)
    assert (gate.ledger.loads, redis_bench.ledger.loads) == (1, 0)
    await other.aclose()


async def test_an_event_counts_in_the_periods_of_its_own_time(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks(input_tokens=0))
    bench.lose()
    bench.clock.forward(24 * 3600)
    late = entry(hold, output_tokens=9)
    assert Entry.from_json(late.to_json()) == late
    await bench.quota.settle(late)
    await admitted(bench.quota, asks())
    assert [await used(bench, period=period) for period in Period] == [0, 9, 9]
