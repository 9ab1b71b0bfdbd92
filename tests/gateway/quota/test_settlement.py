from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import StoreUnavailable
from gateway.quota.port import Backlog, Counters, ExpiredHold, Progress
from gateway.quota.redis.quota import RENEWALS_MAX
from gateway.record.entry import Entry
from gateway.values import Outcome, Period
from tests.gateway.quota.builders import WIDE, admitted, again, asks, denial, drain, entry, hold_of, renew
from tests.gateway.quota.conftest import LEASE_S, Bench


async def test_a_settlement_replaces_the_hold_by_the_usage_and_appends_one_event(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    settled = entry(hold, input_tokens=13, output_tokens=40)
    assert await bench.quota.settle(settled)
    assert await bench.quota.counters(1) == Counters(
        used={(who, period): 53 for who in (None, 11) for period in Period}, held={}, in_flight={}
    )
    assert await bench.quota.backlog() == Backlog(holds=0, events=1)
    [event] = await bench.quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text) == settled


async def test_a_second_settlement_changes_nothing_and_returns_false(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    assert await bench.quota.settle(entry(hold, output_tokens=5))
    before = await bench.quota.counters(1), await bench.quota.backlog()
    assert not await bench.quota.settle(entry(hold, output_tokens=7))
    assert (await bench.quota.counters(1), await bench.quota.backlog()) == before


async def test_an_entry_without_tenant_cannot_be_settled(bench: Bench) -> None:
    with pytest.raises(ValueError, match="tenant"):
        await bench.quota.settle(denial())


async def test_a_release_leaves_no_trace(bench: Bench) -> None:
    admission = asks(limits=replace(WIDE, rpm=1, tpm=100))
    hold = await admitted(bench.quota, admission)
    assert await bench.quota.release(hold.request_id, 1, 11)
    assert await bench.quota.counters(1) == Counters({}, {}, {})
    assert await bench.quota.backlog() == Backlog(holds=0, events=0)
    await admitted(bench.quota, again(admission))


async def test_a_denial_that_envoy_reports_before_the_release_has_its_event(bench: Bench) -> None:
    """Envoy gave up on a check whose admission had succeeded. authz releases the hold when it learns of that."""
    hold = await admitted(bench.quota, asks())
    report = replace(denial(), request_id=hold.request_id)
    await bench.quota.record(report, admission_unknown=True)
    assert await bench.quota.backlog() == Backlog(holds=1, events=0)
    assert await renew(bench.quota, hold)
    assert await bench.quota.release(hold.request_id, 1, 11)
    [event] = await bench.quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text) == report
    assert await bench.quota.backlog() == Backlog(holds=0, events=1)
    await bench.quota.record(report, admission_unknown=True)
    assert not await bench.quota.settle(entry(hold))
    assert await bench.quota.backlog() == Backlog(holds=0, events=1)


async def test_a_denial_that_envoy_reports_before_the_settlement_has_no_event(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    await bench.quota.record(replace(denial(), request_id=hold.request_id), admission_unknown=True)
    settled = entry(hold, output_tokens=5)
    assert await bench.quota.settle(settled)
    [event] = await bench.quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text) == settled


async def test_a_released_request_can_be_neither_settled_renewed_nor_admitted(bench: Bench) -> None:
    admission = asks()
    hold = await admitted(bench.quota, admission)
    await bench.quota.release(hold.request_id, 1, 11)
    assert not await bench.quota.settle(entry(hold))
    assert not await renew(bench.quota, hold)
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(admission)
    assert await bench.quota.backlog() == Backlog(holds=0, events=0)


async def test_a_release_that_arrives_before_its_admission_prevents_it(bench: Bench) -> None:
    admission = asks()
    assert not await bench.quota.release(admission.request_id, 1, 11)
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(admission)
    assert await bench.quota.backlog() == Backlog(holds=0, events=0)


async def test_a_hold_that_is_not_renewed_expires_with_its_last_progress(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    bench.clock.forward(LEASE_S - 1)
    progress = Progress(input_tokens=12, output_tokens=34, response_bytes=56)
    assert await renew(bench.quota, hold, progress)
    bench.clock.forward(LEASE_S - 1)
    assert await bench.quota.expired(10) == []
    bench.clock.forward(1)
    assert await bench.quota.expired(10) == [ExpiredHold(hold, progress)]


async def test_expired_holds_are_returned_oldest_first_up_to_the_limit(bench: Bench) -> None:
    holds = []
    for _ in range(3):
        holds.append(await admitted(bench.quota, asks()))
        bench.clock.forward(1)
    bench.clock.forward(LEASE_S)
    assert [each.hold for each in await bench.quota.expired(2)] == holds[:2]


async def test_a_lost_request_is_settled_once_and_its_late_meter_is_notified(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    bench.clock.forward(LEASE_S)
    [lost] = await bench.quota.expired(10)
    assert await bench.quota.settle(entry(lost.hold, outcome=Outcome.LOST), only_if_expired=True)
    assert not await bench.quota.settle(entry(lost.hold, outcome=Outcome.LOST), only_if_expired=True)
    assert not await renew(bench.quota, hold)
    assert not await bench.quota.settle(entry(hold, output_tokens=5))
    assert await bench.quota.backlog() == Backlog(holds=0, events=1)


async def test_many_holds_are_renewed_together_and_each_has_its_own_reply(bench: Bench) -> None:
    tenants = [1, 2, 1, 1, 2] * (RENEWALS_MAX // 2)
    holds = [await admitted(bench.quota, asks(tenant=tenant, key=10 * tenant)) for tenant in tenants]
    settled = [hold.request_id for hold in holds[::7]]
    for hold in holds[::7]:
        assert await bench.quota.settle(entry(hold))
    bench.clock.forward(LEASE_S - 1)
    renewals = [(hold, Progress(output_tokens=index)) for index, hold in enumerate(holds)]
    assert await bench.quota.renew_all(renewals) == [hold.request_id not in settled for hold in holds]
    assert await bench.quota.renew_all([]) == []
    bench.clock.forward(LEASE_S - 1)
    assert await bench.quota.expired(len(holds)) == []
    bench.clock.forward(1)
    expired = {each.hold.request_id: each for each in await bench.quota.expired(len(holds))}
    assert expired == {
        hold.request_id: ExpiredHold(hold, progress) for hold, progress in renewals if hold.request_id not in settled
    }


async def test_lost_holds_of_several_tenants_are_reestablished_together(bench: Bench) -> None:
    admissions = [asks(tenant=tenant, key=10 * tenant) for tenant in (1, 2)]
    holds = [await admitted(bench.quota, admission) for admission in admissions]
    bench.lose()
    for admission in admissions:
        await bench.quota.settle(entry(await admitted(bench.quota, again(admission))))
    assert await bench.quota.renew_all([(hold, Progress()) for hold in holds]) == [True, True]
    for hold in holds:
        counters = await bench.quota.counters(hold.tenant_id)
        assert counters is not None
        assert counters.in_flight[hold.key_id] == 1
        assert await bench.quota.held(hold.request_id) == hold


async def test_a_hold_that_was_renewed_in_the_meantime_is_not_reaped(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks())
    bench.clock.forward(LEASE_S)
    [lost] = await bench.quota.expired(10)
    await renew(bench.quota, hold)
    assert not await bench.quota.settle(entry(lost.hold), only_if_expired=True)
    assert await bench.quota.settle(entry(hold))


async def test_a_hold_that_the_store_lost_is_settled_and_counted_once(bench: Bench) -> None:
    admission = asks()
    hold = await admitted(bench.quota, admission)
    bench.lose()
    assert await bench.quota.settle(entry(hold, output_tokens=5))
    assert not await bench.quota.settle(entry(hold, output_tokens=5))
    await admitted(bench.quota, again(admission))
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert counters.used[11, Period.DAY] == 15
    assert await drain(bench.quota, bench.ledger) == 1


async def test_a_renewal_reestablishes_a_hold_that_the_store_lost(bench: Bench) -> None:
    admission = asks(limits=replace(WIDE, concurrent=2))
    first, second = await admitted(bench.quota, admission), await admitted(bench.quota, again(admission))
    bench.lose()
    assert await renew(bench.quota, first, Progress(output_tokens=3))
    answer = await bench.quota.admit(third := again(admission))
    assert await renew(bench.quota, second)
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert counters.in_flight == {None: 3, 11: 3}
    assert counters.held[None, Period.DAY] == 300
    for hold in (first, second, hold_of(third, answer)):  # type: ignore[arg-type]  # it was admitted: three are in flight
        assert await bench.quota.settle(entry(hold, output_tokens=1))
    assert await bench.quota.counters(1) == Counters(
        used={(who, period): 33 for who in (None, 11) for period in Period}, held={}, in_flight={}
    )
