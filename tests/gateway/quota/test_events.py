from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.errors import Code, Denied
from gateway.quota.port import Backlog
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Entry
from gateway.settings import Settings
from gateway.stores.redis import connect
from tests.gateway.quota.builders import NOON_MS, Clock, Ledger, admitted, asks, denial, drain, entry
from tests.gateway.quota.conftest import BACKLOG_MAX, LEASE_S, Bench
from tests.gateway.quota.model.quota import MemoryQuota
from tests.redis_server import one_server


async def test_a_denial_is_recorded_without_a_hold(bench: Bench) -> None:
    denied = denial()
    await bench.quota.record(denied)
    [event] = await bench.quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text) == denied


@pytest.mark.parametrize("backlog_max", [2])
async def test_denials_stop_at_twice_the_backlog(bench: Bench, backlog_max: int) -> None:
    await admitted(bench.quota, asks())
    for _ in range(2 * backlog_max):
        await bench.quota.record(denial(tenant=1))
    with pytest.raises(Denied) as denied:
        await bench.quota.record(denial())
    assert denied.value.code == Code.AUDIT_BACKLOG
    assert await bench.quota.backlog() == Backlog(holds=1, events=2 * backlog_max)


async def test_events_are_read_once_in_order_and_deleted_when_acknowledged(bench: Bench) -> None:
    denials = [denial() for _ in range(5)]
    for each in denials:
        await bench.quota.record(each)
    stream = bench.quota.streams[0]
    events = await stream.read("one", 3, 0)
    events += await stream.read("two", 10, 0)
    assert [Entry.from_json(event.text) for event in events] == denials
    assert await stream.read("one", 10, 0) == []
    assert (await bench.quota.backlog()).events == 5
    await stream.acknowledge([event.id for event in events[:2]])
    await stream.acknowledge([event.id for event in events[:3]])
    assert await stream.acknowledge([]) == 0
    assert (await bench.quota.backlog()).events == 2


async def test_the_pending_events_of_a_dead_consumer_are_claimed(bench: Bench) -> None:
    stream = bench.quota.streams[0]
    assert await stream.claim("heir", 10, 0) == []
    for _ in range(3):
        await bench.quota.record(denial())
    left = await stream.read("dead", 10, 0)
    assert await stream.claim("heir", 10, 3_600_000) == []
    assert await stream.claim("heir", 2, 0) == left[:2]
    await stream.acknowledge([left[0].id])
    assert [event.id for event in await stream.claim("heir", 10, 0)] == [left[1].id, left[2].id]


async def test_an_acknowledgement_from_before_a_loss_deletes_no_event_of_the_same_id(
    redis_bench: Bench, redis_client: Any
) -> None:
    """Redis makes ids from its clock, which may go back when another Redis takes over."""
    await redis_bench.quota.record(denial())
    [stream] = redis_bench.quota.streams
    [lost] = await stream.read("test", 10, 0)
    redis_bench.lose()
    redis_client.xadd("nz:{s0}:events", {"t": "", "e": denial().to_json()}, id=lost.id)
    assert await stream.acknowledge([lost.id]) == 1
    assert len(await stream.read("test", 10, 0)) == 1


async def test_acknowledge_counts_lost_events_but_not_events_acknowledged_before() -> None:
    with one_server() as server:
        settings = Settings(redis_url=SecretStr(server.url), redis_timeout_s=5.0)
        redis = connect(settings)
        memory = MemoryQuota(now_ms=Clock(), lease_s=LEASE_S, backlog_max=BACKLOG_MAX, load=Ledger().load)
        with server.client() as client:
            for quota, lose in (
                (memory, memory.lose_everything),
                (RedisQuota(redis, settings, Ledger().load), client.flushall),
            ):
                [stream] = quota.streams
                await quota.epoch()
                await asyncio.sleep(0.002)
                for _ in range(3):
                    await quota.record(denial())
                lost = [event.id for event in await stream.read("test", 10, 10)]
                assert await stream.acknowledge(lost[:1]) == 0
                assert await stream.acknowledge(lost[:1]) == 0
                lose()
                assert await stream.acknowledge(lost[1:2]) == 1
                await quota.epoch()
                await asyncio.sleep(0.002)
                await quota.record(denial())
                [event] = await stream.read("test", 10, 10)
                assert await stream.acknowledge([lost[2], event.id]) == 1
                assert (await quota.backlog()).events == 0
                assert await stream.acknowledge([event.id]) == 0
        await redis.aclose()


async def test_the_stream_works_after_a_loss(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    assert await drain(bench.quota, bench.ledger) == 0
    bench.lose()
    await bench.quota.settle(entry(hold))
    assert await drain(bench.quota, bench.ledger) == 1
    assert bench.ledger.entries[hold.request_id].ts_ms == NOON_MS


async def test_a_denial_of_one_tenant_voids_no_hold_of_another(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks(tenant=1))
    await bench.quota.record(replace(denial(tenant=2), request_id=hold.request_id))
    assert await bench.quota.held(hold.request_id) == hold
    assert await bench.quota.settle(entry(hold, output_tokens=5))
