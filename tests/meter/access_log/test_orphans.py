"""Requests that were admitted and never reached a meter, because the caller left before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import structlog

from gateway.errors import StoreUnavailable
from gateway.quota.port import Backlog, Hold
from gateway.record.entry import Entry
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.access_log import orphans
from meter.access_log.orphans import Orphans
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks
from tests.gateway.quota.model.quota import MemoryQuota
from tests.meter.test_settling import background
from tests.meter.wire_corpus import draft_of, grant_for
from tests.polling import eventually_async


class HeldQuota(MemoryQuota):
    """A quota that counts the calls of `held` that run at once, and raises `failure` from it."""

    running = running_max = calls = 0
    failure: Exception | None = None

    async def held(self, request_id: str) -> Hold | None:
        self.calls += 1
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.failure is not None:
            raise self.failure
        return await super().held(request_id)


@pytest.fixture
async def quota() -> AsyncIterator[HeldQuota]:
    made = HeldQuota(now_ms=Clock(), lease_s=15, backlog_max=100, load=Ledger().load, restore_s=0)
    yield made
    await made.aclose()


async def test_a_hold_of_a_request_that_no_meter_received_is_settled_without_waiting_for_the_reaper(
    quota: HeldQuota,
) -> None:
    grant = grant_for(BY_NAME["chat"], request_id="orphan", tenant_id=1, key_id=11)
    hold = await admitted(quota, replace(asks(request_id="orphan"), grant_draft=draft_of(grant)))
    final: list[Entry] = []
    candidates = Orphans(quota, final.append, after_s=0.05)
    candidates.add("orphan")
    candidates.add("settled by its meter")
    async with background(candidates.run()):
        await eventually_async(lambda: quota.calls == 2 and not quota.running)
    (left,) = final
    assert (left.outcome, left.status, left.input_tokens, left.output_tokens) == (Outcome.CLIENT_GONE, 499, 0, 0)
    assert (left.ts_ms, left.reserved_tokens) == (hold.admitted_at_ms, hold.input_tokens + hold.output_cap)
    assert await quota.settle(left)
    assert await quota.backlog() == Backlog(holds=0, events=1)


async def test_a_malformed_hold_of_an_orphan_is_logged(quota: HeldQuota) -> None:
    await admitted(quota, replace(asks(request_id="orphan"), grant_draft="{}"))
    final: list[Entry] = []
    candidates = Orphans(quota, final.append, after_s=0.0)
    with structlog.testing.capture_logs() as logs:
        async with background(candidates.run()):
            candidates.add("orphan")
            await eventually_async(lambda: bool(logs))
    assert [(each["event"], each["request_id"]) for each in logs] == [("hold_unreadable", "orphan")]
    assert final == []


@pytest.mark.parametrize(
    ("failure", "event"),
    [
        (KeyError("tenant"), "hold_unreadable"),
        (TypeError("not an object"), "hold_unreadable"),
        (ValueError("not JSON"), "hold_unreadable"),
        (StoreUnavailable("unavailable"), "orphan_not_checked"),
    ],
)
async def test_a_failure_is_logged_and_the_next_candidate_is_checked(
    quota: HeldQuota, failure: Exception, event: str
) -> None:
    quota.failure = failure
    candidates = Orphans(quota, lambda _: None, after_s=0.0)
    with structlog.testing.capture_logs() as logs:
        async with background(candidates.run()):
            # More than there are workers, so that each of them continues after a failure.
            for _ in range(2 * orphans.WORKERS):
                candidates.add("orphan")
            await eventually_async(lambda: len(logs) == 2 * orphans.WORKERS)
    assert {each["event"] for each in logs} == {event}


async def test_candidates_and_the_calls_that_run_at_once_are_bounded(
    quota: HeldQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "CANDIDATES_MAX", 100)
    candidates = Orphans(quota, lambda _: None, after_s=0.0)
    with structlog.testing.capture_logs() as logs:
        for index in range(102):
            candidates.add(str(index))
    assert [(each["event"], each["request_id"], each["dropped"]) for each in logs] == [
        ("orphan_not_checked", "100", 1),
        ("orphan_not_checked", "101", 2),
    ]
    async with background(candidates.run()):
        await eventually_async(lambda: quota.calls == 100)
    assert 1 < quota.running_max <= orphans.WORKERS
