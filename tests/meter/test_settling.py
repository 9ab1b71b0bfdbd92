"""From the end of a request to its row: outbox, renewal, drain and reaper over the in-memory quota."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.errors import Conflict, DataRefused, StoreUnavailable
from gateway.ledger.outbox import Outbox
from gateway.quota.epoch import EpochWatch
from gateway.quota.port import Backlog, ExpiredHold, Hold, Progress, Reserved
from gateway.record.entry import Entry
from gateway.record.grant import Grant
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.drain import Drain
from meter.exchange import Exchange
from meter.phases import Phase
from meter.renewal import RENEWALS_PER_LEASE, Renewal
from ops.control.reaper import Reaper
from tests.gateway.quota.builders import Clock, Ledger, asks, denial, entry, hold_of, renew
from tests.gateway.quota.model.quota import MemoryQuota
from tests.meter.wire_corpus import draft_of, grant_for, json_of
from tests.polling import eventually_async

LEASE_S = 0.3


class Outage(MemoryQuota):
    """A quota whose clock a test moves, and whose settlements fail unless `available`."""

    available = True

    def __init__(self, clock: Clock) -> None:
        super().__init__(now_ms=clock, lease_s=LEASE_S, backlog_max=1000, load=Ledger().load)
        self.clock = clock

    async def settle(self, entry: Entry, *, only_if_expired: bool = False) -> bool:
        if not self.available:
            raise StoreUnavailable("unavailable")
        return await super().settle(entry, only_if_expired=only_if_expired)


class Recorder:
    """A ledger in memory that fails unless `available`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.available = True

    async def append(self, entries: Sequence[Entry]) -> frozenset[int]:
        if not self.available:
            raise StoreUnavailable("unavailable")
        known = {each.request_id for each in self.entries}
        self.entries += [each for each in entries if each.request_id not in known]
        return frozenset(each.tenant_id for each in entries if each.request_id in known and each.tenant_id)


@pytest.fixture
async def quota() -> AsyncIterator[Outage]:
    clock = Clock()
    made = Outage(clock)
    clock.forward((await made.epoch()).opens_in_s)
    yield made
    await made.aclose()


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def admit(quota: MemoryQuota, **options: Any) -> tuple[Grant, Any]:
    request = asks(**options)
    answer = await quota.admit(request)
    assert isinstance(answer, Reserved)
    grant = grant_for(
        BY_NAME["chat"], request_id=request.request_id, key_id=request.key_id, admitted_at_ms=answer.admitted_at_ms
    )
    return grant, hold_of(request, answer)


async def test_requests_that_end_during_an_outage_are_settled_after_it(quota: Outage) -> None:
    outbox = Outbox(quota, settlements_max=2, denials_max=2)
    holds = [(await admit(quota))[1] for _ in range(3)]
    quota.available = False
    async with background(outbox.run()):
        for hold in holds:
            outbox.submit(entry(hold))
        assert outbox.full
        assert await outbox.wait_idle(timeout_s=0.05) == 3
        quota.available = True
        assert await outbox.wait_idle(timeout_s=10) == 0
    assert not outbox.full
    assert await quota.backlog() == Backlog(holds=0, events=3)


async def test_entries_that_the_store_loses_before_they_are_recorded_are_resubmitted(
    quota: Outage,
) -> None:
    outbox = Outbox(quota, settlements_max=10, denials_max=10, confirm_every_s=0.01)
    clock = quota.clock
    first, second = [(await admit(quota))[1] for _ in range(2)]
    denied = denial()
    async with background(outbox.run(), EpochWatch(quota, outbox.resubmit_unconfirmed, poll_s=0.01).run()):
        outbox.submit(entry(first))
        await outbox.wait_idle(timeout_s=10)
        (event,) = [each for each in await quota.streams[0].read("test", 10, 0) if first.request_id in each.text]
        await quota.streams[0].acknowledge([event.id])
        await eventually_async(lambda: first.request_id not in outbox.unconfirmed)
        await outbox.record(denied)
        outbox.submit(entry(second))
        await outbox.wait_idle(timeout_s=10)
        clock.forward(1)
        quota.lose_everything()
        await eventually_async(lambda: len(quota.streams[0]) == 2)
        resubmitted = {Entry.from_json(each.text).request_id for each in await quota.streams[0].read("test", 10, 0)}
    assert resubmitted == {denied.request_id, second.request_id}


async def test_after_a_loss_the_holds_of_running_requests_are_restored_before_a_request_is_admitted(
    quota: Outage,
) -> None:
    clock = quota.clock
    grant, _ = await admit(quota)
    renewal = Renewal(quota, lease_s=3600)
    renewal.add(Exchange(grant, json_of(grant), asyncio.get_running_loop().time))
    async with background(renewal.run(), EpochWatch(quota, renewal.at_once, poll_s=0.01).run()):
        await asyncio.sleep(0.05)
        clock.forward(1)
        quota.lose_everything()
        await eventually_async(lambda: quota.held_ids == {grant.request_id})
    assert (await quota.epoch()).opens_in_s > 0


async def test_an_entry_is_recorded_once_however_often_the_ledger_fails(quota: Outage) -> None:
    _, hold = await admit(quota)
    assert await quota.settle(entry(hold))
    await quota.record(denial())
    recorder = Recorder()
    recorder.available = False
    async with background(Drain(quota, recorder, "one").run()):  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert (await quota.backlog()).events == 2
    recorder.available = True
    # Another consumer claims the events that the first one received and never acknowledged.
    async with background(Drain(quota, recorder, "two", claim_after_ms=0).run()):  # type: ignore[arg-type]
        await eventually_async(lambda: len(quota.streams[0]) == 0)
    assert len(recorder.entries) == 2


@pytest.mark.parametrize("refusal", [DataRefused("PostgreSQL rejects the data"), Conflict("a constraint")])
async def test_an_entry_that_postgresql_refuses_is_set_aside_and_holds_up_no_other(
    quota: Outage, refusal: Exception
) -> None:
    refused = denial()
    await quota.record(refused)
    for _ in range(5):
        await quota.record(denial())

    class Refuses(Recorder):
        """A ledger that never accepts one of the entries, and has no place to set it aside either."""

        async def append(self, entries: Sequence[Entry]) -> frozenset[int]:
            if refused in entries:
                raise refusal
            return await super().append(entries)

        async def reject(self, entry: Entry, reason: str) -> None:
            raise type(refusal)(f"{entry.request_id}: {reason}")

    ledger = Refuses()
    with structlog.testing.capture_logs() as logs:
        async with background(Drain(quota, ledger, "one").run()):  # type: ignore[arg-type]
            await eventually_async(lambda: len(quota.streams[0]) == 0)
    assert len(ledger.entries) == 5
    assert {(each["event"], each["request_id"]) for each in logs if each["log_level"] == "error"} == {
        ("entry_rejected", refused.request_id),
        ("reject_not_stored", refused.request_id),
    }
    (kept,) = [each["entry"] for each in logs if "entry" in each]
    assert Entry.from_json(kept) == refused


async def test_a_malformed_event_is_a_value_error() -> None:
    good = denial()
    for wrong in ("", "{}", '{"request_id": 5}', good.to_json().replace('"status":', '"status":"x","y":')):
        with pytest.raises(ValueError, match="validation error"):
            Entry.from_json(wrong)
    assert Entry.from_json(good.to_json()) == good


async def test_a_running_request_keeps_its_hold_and_one_that_stopped_does_not(quota: Outage) -> None:
    clock = quota.clock
    grant, _ = await admit(quota)
    exchange = Exchange(grant, json_of(grant), asyncio.get_running_loop().time)
    renewal = Renewal(quota, LEASE_S)
    renewal.add(exchange)
    async with background(renewal.run()):
        for _ in range(3 * RENEWALS_PER_LEASE):
            clock.forward(LEASE_S / RENEWALS_PER_LEASE)
            await asyncio.sleep(2 * LEASE_S / RENEWALS_PER_LEASE)
        assert await quota.expired(10) == []
        renewal.discard(exchange)
        clock.forward(2 * LEASE_S)
        await asyncio.sleep(LEASE_S)
        assert [each.hold.request_id for each in await quota.expired(10)] == [grant.request_id]


async def test_the_reaper_settles_a_lost_request_at_its_progress(quota: Outage) -> None:
    clock = quota.clock
    request = asks()
    draft = grant_for(BY_NAME["chat"], request_id=request.request_id, key_id=request.key_id)
    request = replace(request, grant_draft=draft_of(draft))
    answer = await quota.admit(request)
    assert isinstance(answer, Reserved)
    hold = hold_of(request, answer)
    assert await renew(quota, hold, Progress(input_tokens=7, output_tokens=5, response_bytes=50))
    reaper = Reaper(quota, LEASE_S)
    assert await reaper.reap() == 0
    clock.forward(2 * LEASE_S)
    assert await reaper.reap() == 1
    assert await reaper.reap() == 0
    (event,) = await quota.streams[0].read("test", 10, 0)
    lost = Entry.from_json(event.text)
    assert (lost.outcome, lost.input_tokens, lost.output_tokens, lost.response_bytes) == (Outcome.LOST, 7, 5, 50)
    assert (lost.request_id, lost.ts_ms) == (hold.request_id, answer.admitted_at_ms)
    assert (await quota.backlog()).holds == 0


async def test_a_hold_whose_grant_is_unreadable_does_not_end_the_reaper_of_the_others(quota: Outage) -> None:
    first = asks()
    second = asks()
    readable = draft_of(grant_for(BY_NAME["chat"], request_id=second.request_id, key_id=second.key_id))
    for request in (replace(first, grant_draft='{"unreadable": 1}'), replace(second, grant_draft=readable)):
        assert isinstance(await quota.admit(request), Reserved)
    quota.clock.forward(2 * LEASE_S)
    with capture_logs() as logs:
        assert await Reaper(quota, LEASE_S).reap() == 1
    assert [(each["event"], each["request_id"]) for each in logs] == [
        ("hold_unreadable", first.request_id),
        ("request_lost", second.request_id),
    ]
    (event,) = await quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text).request_id == second.request_id


async def test_a_request_that_was_settled_elsewhere_is_cut(quota: Outage) -> None:
    grant, hold = await admit(quota)
    exchange = Exchange(grant, json_of(grant), asyncio.get_running_loop().time)
    assert await quota.settle(entry(hold))
    renewal = Renewal(quota, LEASE_S)
    renewal.add(exchange)
    async with background(renewal.run()):
        await eventually_async(lambda: exchange.phase is Phase.CUT)


class BrieflyUnavailable(Outage):
    """A quota whose first query for expired holds fails. After the second one the meter renews `hold`."""

    queries = 0
    hold: Hold | None = None

    async def expired(self, limit: int) -> list[ExpiredHold]:
        self.queries += 1
        if self.queries == 1:
            self.clock.forward(2 * LEASE_S)
            raise StoreUnavailable("unavailable")
        found = await super().expired(limit)
        if self.queries == 2:
            assert self.hold is not None
            assert [each.hold.request_id for each in found] == [self.hold.request_id]
            assert await renew(self, self.hold)
        return found


async def test_after_an_outage_running_requests_may_renew_before_they_are_reaped() -> None:
    """The reaper waits for a lease, and meanwhile the hold that seemed expired is renewed."""
    quota = BrieflyUnavailable(Clock())
    quota.clock.forward((await quota.epoch()).opens_in_s)
    _, quota.hold = await admit(quota)
    async with background(Reaper(quota, LEASE_S, interval_s=0.01).run()):
        await eventually_async(lambda: quota.queries >= 4)
    assert await quota.backlog() == Backlog(holds=1, events=0)
    await quota.aclose()
