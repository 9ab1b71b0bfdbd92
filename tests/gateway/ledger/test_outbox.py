"""The outbox: lanes that do not wait for each other, and entries that are never lost or resubmitted without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog

from gateway.errors import StoreUnavailable
from gateway.ledger.outbox import DENIAL_WORKERS, Outbox
from gateway.record.entry import Entry
from gateway.values import Outcome
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, denial, entry
from tests.gateway.quota.model.quota import MemoryQuota
from tests.polling import eventually_async

BACKLOG_MAX = 10


class EmptyLedger:
    """A ledger that records nothing."""

    async def recorded(self, entries: Sequence[Entry]) -> frozenset[str]:
        return frozenset() & {entry.request_id for entry in entries}


class Quota(MemoryQuota):
    """A quota whose `record` fails while `unavailable`."""

    unavailable = False

    async def record(self, entry: Entry, *, admission_unknown: bool = False) -> None:
        if self.unavailable:
            raise StoreUnavailable("unavailable")
        await super().record(entry, admission_unknown=admission_unknown)


@pytest.fixture
async def quota() -> AsyncIterator[Quota]:
    made = Quota(now_ms=Clock(), lease_s=15, backlog_max=BACKLOG_MAX, load=Ledger().load, restore_s=0)
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
    outbox = Outbox(quota, EmptyLedger(), settlements_max=100, denials_max=100)
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
    outbox = Outbox(quota, EmptyLedger(), settlements_max=100, denials_max=100)
    for _ in range(3 * DENIAL_WORKERS):
        outbox.submit(denial())
    outbox.submit(entry(hold))
    async with running(outbox):
        await eventually_async(lambda: not quota.held_ids)
        quota.unavailable = False
        assert await outbox.wait_idle(10) == 0
    assert outbox.denials_dropped == 0


async def test_denials_that_wait_are_bounded_and_settlements_never_dropped(quota: Quota) -> None:
    outbox = Outbox(quota, EmptyLedger(), settlements_max=2, denials_max=2)
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
