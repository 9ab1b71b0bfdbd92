"""The outbox: lanes that do not wait for each other, and entries that are never lost or resubmitted without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from gateway.errors import StoreUnavailable
from gateway.ledger.outbox import DENIAL_WORKERS, Outbox
from gateway.quota.port import Watermark
from gateway.record.entry import Entry
from gateway.values import Outcome
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, denial, entry
from tests.gateway.quota.model.quota import MemoryQuota
from tests.polling import eventually_async

BACKLOG_MAX = 10


class Quota(MemoryQuota):
    """A quota whose `record` fails while `unavailable`."""

    unavailable = False
    watermarks = 0
    clock: Clock

    async def watermark(self) -> Watermark:
        self.watermarks += 1
        return await super().watermark()

    async def record(self, entry: Entry, *, admission_unknown: bool = False) -> None:
        if self.unavailable:
            raise StoreUnavailable("unavailable")
        await super().record(entry, admission_unknown=admission_unknown)


@pytest.fixture
async def quota() -> AsyncIterator[Quota]:
    clock = Clock()
    made = Quota(now_ms=clock, lease_s=15, backlog_max=BACKLOG_MAX, load=Ledger().load, restore_s=0)
    made.clock = clock
    yield made
    await made.aclose()


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_settlement_does_not_wait_for_denials_that_the_backlog_has_no_capacity_for(quota: Quota) -> None:
    hold = await admitted(quota, asks())
    for _ in range(2 * BACKLOG_MAX - 1):
        await quota.record(denial())
    outbox = Outbox(quota, settlements_max=100, denials_max=100)
    for _ in range(3 * DENIAL_WORKERS):
        outbox.submit(denial())
    outbox.submit(entry(hold, output_tokens=77))
    async with running(outbox):
        assert await outbox.wait_idle(10) == 0
    assert outbox.denials_dropped == 3 * DENIAL_WORKERS
    entries = [Entry.from_json(event.text) for event in await quota.streams[0].read("test", 100, 0)]
    (settled,) = [each for each in entries if each.outcome is not Outcome.DENIED]
    assert (settled.request_id, settled.outcome, settled.output_tokens) == (hold.request_id, Outcome.COMPLETE, 77)


async def test_a_settlement_does_not_wait_for_denials_that_cannot_be_stored_now(quota: Quota) -> None:
    hold = await admitted(quota, asks())
    quota.unavailable = True
    outbox = Outbox(quota, settlements_max=100, denials_max=100)
    for _ in range(3 * DENIAL_WORKERS):
        outbox.submit(denial())
    outbox.submit(entry(hold))
    async with running(outbox):
        await eventually_async(lambda: not quota.held_ids)
        quota.unavailable = False
        assert await outbox.wait_idle(10) == 0
    assert outbox.denials_dropped == 0


async def test_a_denial_that_is_waited_for_is_stored_unless_that_takes_too_long(quota: Quota) -> None:
    outbox = Outbox(quota, settlements_max=100, denials_max=2)
    async with running(outbox):
        await outbox.submit_denial(denial(), wait_s=60)
        assert (await quota.backlog()).events == 1
        quota.unavailable = True
        for _ in range(3):
            await outbox.submit_denial(denial(), wait_s=0.01)
        assert outbox.denials_dropped == 1
        quota.unavailable = False
        assert await outbox.wait_idle(10) == 0
    assert (await quota.backlog()).events == 3


async def test_denials_that_wait_are_bounded_and_settlements_never_dropped(quota: Quota) -> None:
    outbox = Outbox(quota, settlements_max=2, denials_max=2)
    holds = [await admitted(quota, asks()) for _ in range(3)]
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            outbox.submit(denial())
    assert outbox.denials_dropped == 3
    assert [each["dropped"] for each in logs] == [1, 2, 3]
    assert not outbox.full
    for hold in holds:
        outbox.submit(entry(hold))
    assert outbox.full
    async with running(outbox):
        assert await outbox.wait_idle(10) == 0
    assert (await quota.backlog()).events == 5


async def test_accepted_denials_that_the_store_lost_are_resubmitted_whatever_their_number(quota: Quota) -> None:
    outbox = Outbox(quota, settlements_max=2, denials_max=2)
    denials = [denial() for _ in range(2 * BACKLOG_MAX)]
    for each in denials:
        await outbox.record(each)
    quota.lose_everything()
    outbox.resubmit_unconfirmed()
    async with running(outbox):
        assert await outbox.wait_idle(10) == 0
    entries = [Entry.from_json(event.text) for event in await quota.streams[0].read("test", 100, 0)]
    assert {each.request_id for each in entries} == {each.request_id for each in denials}
    assert outbox.denials_dropped == 0


async def test_an_accepted_denial_waits_while_the_backlog_is_full_and_a_new_one_does_not(quota: Quota) -> None:
    outbox = Outbox(quota, settlements_max=10, denials_max=10)
    accepted = denial()
    await outbox.record(accepted)
    quota.lose_everything()
    for _ in range(2 * BACKLOG_MAX):
        await quota.record(denial())
    outbox.resubmit_unconfirmed()
    outbox.submit(denial())
    async with running(outbox):
        await eventually_async(lambda: outbox.denials_dropped == 1)
        (stream,) = quota.streams
        await stream.acknowledge([event.id for event in await stream.read("test", 100, 0)])
        assert await outbox.wait_idle(10) == 0
    (event,) = await stream.read("test", 100, 0)
    assert Entry.from_json(event.text) == accepted


async def test_an_entry_is_retained_while_an_older_event_waits(quota: Quota) -> None:
    outbox = Outbox(quota, settlements_max=10, denials_max=10, confirm_every_s=0.01)
    first, second = [await admitted(quota, asks()) for _ in range(2)]
    (stream,) = quota.streams
    async with running(outbox):
        outbox.submit(entry(first))
        outbox.submit(entry(second))
        assert await outbox.wait_idle(10) == 0
        # One drain acknowledges the younger event while another one still has the older.
        older, younger = await stream.read("test", 10, 0)
        await stream.acknowledge([younger.id])
        for _ in range(3):
            await next_confirmation(quota)
        assert set(outbox.unconfirmed) == {first.request_id, second.request_id}
        await stream.acknowledge([older.id])
        await eventually_async(lambda: not outbox.unconfirmed)


async def next_confirmation(quota: Quota) -> None:
    """Returns when the outbox has read another watermark and used it."""
    before = quota.watermarks
    await eventually_async(lambda: quota.watermarks > before + 1)


async def test_an_entry_of_an_epoch_that_ended_before_a_watermark_is_resubmitted(quota: Quota) -> None:
    outbox = Outbox(quota, settlements_max=10, denials_max=10, confirm_every_s=0.01)
    hold = await admitted(quota, asks())
    async with running(outbox):
        await next_confirmation(quota)
        outbox.submit(entry(hold))
        assert await outbox.wait_idle(10) == 0
        quota.clock.forward(1)
        quota.lose_everything()
        # The stream is empty, but not because the ledger has the event.
        await eventually_async(lambda: len(quota.streams[0]) == 1)
        assert set(outbox.unconfirmed) == {hold.request_id}
