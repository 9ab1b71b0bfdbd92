"""The cause of an answer that broke off, which one meter learns from Envoy's access log and another may need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import structlog
from pydantic import SecretStr

from gateway.quota.port import Backlog, Hold
from gateway.record.entry import Entry
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.disconnect_store import DisconnectStore
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, entry
from tests.gateway.quota.model.quota import MemoryQuota
from tests.meter.wire_corpus import draft_of, grant_for
from tests.polling import eventually_async

HOLD = Hold("broken", 1, 11, 0, 10, 90, "")
LEFT = replace(entry(HOLD, output_tokens=3), outcome=Outcome.CLIENT_GONE)


@pytest.fixture
async def shared(redis_url: str) -> AsyncIterator[DisconnectStore]:
    redis = connect(Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5))
    await redis.flushall()
    yield DisconnectStore(redis, 5)
    await redis.aclose()


@pytest.fixture
async def quota() -> AsyncIterator[MemoryQuota]:
    made = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=100, load=Ledger().load, restore_s=0)
    yield made
    await made.aclose()


async def test_a_hold_of_a_request_that_no_meter_received_is_settled_without_waiting_for_the_reaper(
    shared: DisconnectStore, quota: MemoryQuota
) -> None:
    grant = grant_for(BY_NAME["chat"], request_id="orphan", tenant_id=1, key_id=11)
    admission = replace(asks(request_id="orphan"), grant_draft=draft_of(grant))
    hold = await admitted(quota, admission)
    final: list[Entry] = []
    disconnect_causes = DisconnectCauses(shared, quota, final.append, wait_s=0.1, orphan_after_s=0.05)
    disconnect_causes.settle_orphan("orphan")
    disconnect_causes.settle_orphan("settled by its meter")
    await eventually_async(lambda: len(final) == 1)
    (left,) = final
    assert (left.outcome, left.status, left.input_tokens, left.output_tokens) == (Outcome.CLIENT_GONE, 499, 0, 0)
    assert (left.ts_ms, left.reserved_tokens) == (hold.admitted_at_ms, hold.input_tokens + hold.output_cap)
    assert await quota.settle(left)
    assert await quota.backlog() == Backlog(holds=0, events=1)
    await asyncio.sleep(0.1)
    assert len(final) == 1


@pytest.mark.parametrize("by_upstream", [True, False])
async def test_the_cause_may_arrive_before_or_after_and_at_another_meter(
    shared: DisconnectStore, quota: MemoryQuota, by_upstream: bool
) -> None:
    final: list[Entry] = []
    logged, waiting = (
        DisconnectCauses(shared, quota, final.append),
        DisconnectCauses(shared, quota, final.append),
    )
    expected = (Outcome.UPSTREAM_ERROR, "backend_error") if by_upstream else (Outcome.CLIENT_GONE, None)
    waiting.settle(LEFT)
    await asyncio.sleep(0.1)
    logged.note(LEFT.request_id, by_upstream)
    await eventually_async(lambda: len(final) == 1)
    waiting.settle(LEFT)
    await eventually_async(lambda: len(final) == 2)
    assert [(each.outcome, each.code, each.output_tokens) for each in final] == [(*expected, 3)] * 2


async def test_without_a_cause_the_caller_is_presumed(shared: DisconnectStore, quota: MemoryQuota) -> None:
    final: list[Entry] = []
    DisconnectCauses(shared, quota, final.append, wait_s=0.1, orphan_after_s=0.05).settle(LEFT)
    await eventually_async(lambda: final == [LEFT])


async def test_a_meter_that_stops_does_not_wait_for_causes(shared: DisconnectStore, quota: MemoryQuota) -> None:
    final: list[Entry] = []
    disconnect_causes = DisconnectCauses(shared, quota, final.append, wait_s=0.1, orphan_after_s=0.05)
    disconnect_causes.settle(LEFT)
    await asyncio.sleep(0)
    await disconnect_causes.close()
    assert final == [LEFT]


async def test_a_malformed_hold_of_an_orphan_is_logged(shared: DisconnectStore, quota: MemoryQuota) -> None:
    await admitted(quota, replace(asks(request_id="orphan"), grant_draft="{}"))
    final: list[Entry] = []
    with structlog.testing.capture_logs() as logs:
        DisconnectCauses(shared, quota, final.append, orphan_after_s=0.0).settle_orphan("orphan")
        await eventually_async(lambda: bool(logs))
    assert [(each["event"], each["request_id"]) for each in logs] == [("hold_unreadable", "orphan")]
    assert final == []


async def test_an_outage_delays_no_entry(quota: MemoryQuota) -> None:
    unreachable = connect(Settings(redis_url=SecretStr("redis://127.0.0.1:1/0")))
    final: list[Entry] = []
    disconnect_causes = DisconnectCauses(DisconnectStore(unreachable, 5), quota, final.append)
    disconnect_causes.note(LEFT.request_id, by_upstream=True)
    disconnect_causes.settle(LEFT)
    await eventually_async(lambda: final == [LEFT])
    await disconnect_causes.close()
    await unreachable.aclose()
