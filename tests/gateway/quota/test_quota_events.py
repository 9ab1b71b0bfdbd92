from __future__ import annotations

import pytest

from gateway.errors import Code, Denied
from gateway.ledger import Entry
from gateway.quota.port import Backlog

from .builders import NOON_MS, admitted, asks, denial, drain, entry
from .conftest import Bench


async def test_a_denial_is_recorded_without_a_hold(bench: Bench) -> None:
    denied = denial()
    await bench.quota.record(denied)
    [event] = await bench.quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text) == denied


@pytest.mark.parametrize("room", [2])
async def test_denials_stop_at_twice_the_room(bench: Bench, room: int) -> None:
    await admitted(bench.quota, asks())
    for _ in range(2 * room - 1):
        await bench.quota.record(denial(tenant=1))
    with pytest.raises(Denied) as refused:
        await bench.quota.record(denial())
    assert refused.value.code == Code.AUDIT_BACKLOG
    assert await bench.quota.backlog() == Backlog(holds=1, events=2 * room - 1)


async def test_events_are_read_once_in_order_and_leave_when_acknowledged(bench: Bench) -> None:
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
    await stream.acknowledge([])
    assert (await bench.quota.backlog()).events == 2


async def test_what_a_dead_consumer_left_is_claimed_by_another(bench: Bench) -> None:
    stream = bench.quota.streams[0]
    assert await stream.claim("heir", 10, 0) == []
    for _ in range(3):
        await bench.quota.record(denial())
    left = await stream.read("dead", 10, 0)
    assert await stream.claim("heir", 10, 3_600_000) == []
    assert await stream.claim("heir", 2, 0) == left[:2]
    await stream.acknowledge([left[0].id])
    assert [event.id for event in await stream.claim("heir", 10, 0)] == [left[1].id, left[2].id]


async def test_the_stream_works_again_after_the_store_lost_everything(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    assert await drain(bench.quota, bench.ledger) == 0
    bench.lose()
    await bench.quota.settle(entry(hold))
    assert await drain(bench.quota, bench.ledger) == 1
    assert bench.ledger.entries[hold.request_id].ts_ms == NOON_MS
