from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest
from pydantic import SecretStr

from gateway.errors import Code, StoreUnavailable
from gateway.quota.port import Admission, Backlog, Counters, LimitStatus, Progress, ReservationDenied, Reserved
from gateway.quota.redis.quota import RedisQuota
from gateway.record import grant
from gateway.record.request import RequestRecord, record_fields
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Budgets, Limits, Period
from tests.gateway.quota.builders import WIDE, Ledger, admitted, again, asks, denial, drain, entry, hold_of, renew
from tests.gateway.quota.conftest import Bench


async def denial_of(bench: Bench, admission: Admission) -> ReservationDenied:
    before = await bench.quota.counters(admission.tenant_id) or Counters({}, {}, {}), await bench.quota.backlog()
    answer = await bench.quota.admit(admission)
    assert isinstance(answer, ReservationDenied), answer
    assert (await bench.quota.counters(admission.tenant_id), await bench.quota.backlog()) == before
    return answer


async def admitted_after_retry(bench: Bench, admission: Admission, denied: ReservationDenied) -> None:
    """Asserts that the request is admitted after `retry_after_s`, and not one second earlier."""
    assert denied.retry_after_s is not None
    bench.clock.forward(denied.retry_after_s - 1)
    assert isinstance(await bench.quota.admit(again(admission)), ReservationDenied)
    bench.clock.forward(1)
    await admitted(bench.quota, again(admission))


async def test_an_admission_reserves_for_key_and_tenant_and_returns_the_limit_status(bench: Bench) -> None:
    admission = asks(
        limits=Limits(rpm=5, tpm=1000, concurrent=2),
        tenant_limits=Limits(rpm=9, tpm=900, concurrent=9),
        budgets=Budgets(day=5000, total=70_000),
        tenant_budgets=Budgets(month=4000),
    )
    answer = await bench.quota.admit(admission)
    assert answer == Reserved(bench.clock.now_ms, 10, 90, LimitStatus(5, 4, 900, 800, Period.MONTH, 3900, 60))
    assert await bench.quota.backlog() == Backlog(holds=1, events=0)
    assert await bench.quota.counters(1) == Counters(
        used={}, held={(who, period): 100 for who in (None, 11) for period in Period}, in_flight={None: 1, 11: 1}
    )


async def test_the_hold_stores_the_grant_that_authz_passes_on(bench: Bench) -> None:
    """The script and `seal` append the quota's decision in the same way, byte for byte."""
    record = RequestRecord(
        "r-sealed",
        2**53 - 1,
        'a"b\\',
        2**53 - 3,
        "nz_abc",
        "::1",
        'ü\ud800 {"}',
        "POST",
        "/api/chat",
        "chat",
        "m",
        True,
        3,
    )
    draft = grant.draft(record, strip_usage=False, runner_options=True, show_backend=False, log_prompts=True)
    admission = replace(asks(request_id=record.request_id, input_tokens=20), grant_draft=draft)
    answer = await bench.quota.admit(admission)
    assert isinstance(answer, Reserved)
    sealed = grant.seal(draft, answer.admitted_at_ms, answer.input_tokens, answer.output_cap)
    stored = await bench.quota.held(record.request_id)
    assert stored is not None
    assert stored.grant_json == sealed
    assert record_fields(stored.grant()) == record_fields(record)
    assert (stored.grant().admitted_at_ms, stored.grant().output_cap) == (answer.admitted_at_ms, answer.output_cap)


async def test_without_a_budget_the_limit_status_has_none(bench: Bench) -> None:
    answer = await bench.quota.admit(asks())
    assert (answer.limit_status.budget_period, answer.limit_status.budget_remaining) == (None, None)


@pytest.mark.parametrize("whose", ["limits", "tenant_limits"])
async def test_requests_beyond_the_rate_are_denied_until_the_retry_time(bench: Bench, whose: str) -> None:
    admission = asks(**{whose: replace(WIDE, rpm=3)})  # type: ignore[arg-type]  # one of two keywords
    for wait_s in (0.3, 7.1, 0):
        await admitted(bench.quota, again(admission))
        bench.clock.forward(wait_s)
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.RATE_LIMIT_EXCEEDED, 53)
    assert (denied.limit_status.requests_limit, denied.limit_status.requests_remaining) == (3, 0)
    await admitted_after_retry(bench, admission, denied)


async def test_no_60_seconds_contain_more_requests_than_the_rate(bench: Bench) -> None:
    admission, times = asks(limits=replace(WIDE, rpm=7)), list[int]()
    for step_ms in (0, 999, 1, 400, 58_000, 598, 2, 1, 999, 1, 30_000, 500, 29_499, 1, 999, 1, 1, 998, 2) * 3:
        bench.clock.now_ms += step_ms
        answers = [await bench.quota.admit(again(admission)) for _ in range(3)]
        times += [bench.clock.now_ms for answer in answers if isinstance(answer, Reserved)]
    assert len(times) > 14
    assert all(later - earlier >= 60_000 for earlier, later in zip(times, times[7:], strict=False))


async def test_the_keys_of_a_tenant_share_its_rate_and_tenants_do_not(bench: Bench) -> None:
    shared = replace(WIDE, rpm=1)
    await admitted(bench.quota, asks(key=11, tenant_limits=shared))
    assert (await denial_of(bench, asks(key=12, tenant_limits=shared))).code == Code.RATE_LIMIT_EXCEEDED
    await admitted(bench.quota, asks(tenant=2, key=12, tenant_limits=shared))


async def test_tokens_are_reserved_in_the_window_and_corrected_by_the_settlement(bench: Bench) -> None:
    admission = asks(limits=replace(WIDE, tpm=250))
    hold = await admitted(bench.quota, admission)
    await admitted(bench.quota, again(admission))
    denied = await denial_of(bench, again(admission))
    assert (denied.code, denied.retry_after_s) == (Code.TOKEN_RATE_EXCEEDED, 60)
    assert (denied.limit_status.tokens_limit, denied.limit_status.tokens_remaining) == (250, 50)
    await bench.quota.settle(entry(hold, output_tokens=20))
    answer = await bench.quota.admit(again(admission))
    assert isinstance(answer, Reserved)
    assert answer.limit_status.tokens_remaining == 250 - 30 - 100 - 100


async def test_a_request_denied_for_its_tokens_is_admitted_after_the_retry_time(bench: Bench) -> None:
    admission = asks(limits=replace(WIDE, tpm=250))
    for wait_s in (0.7, 12.9):
        await admitted(bench.quota, again(admission))
        bench.clock.forward(wait_s)
    await admitted_after_retry(bench, admission, await denial_of(bench, again(admission)))


async def test_the_output_of_a_request_larger_than_the_token_rate_is_capped(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks(limits=replace(WIDE, tpm=60)))
    assert hold.output_cap == 50


async def test_an_input_larger_than_the_token_rate_is_always_denied(bench: Bench) -> None:
    denied = await denial_of(bench, asks(input_tokens=60, limits=replace(WIDE, tpm=60)))
    assert (denied.code, denied.retry_after_s) == (Code.TOKEN_RATE_EXCEEDED, None)
    await admitted(bench.quota, asks(input_tokens=60, output=0, limits=replace(WIDE, tpm=60)))


@pytest.mark.parametrize("whose", ["limits", "tenant_limits"])
async def test_requests_in_flight_are_limited_until_one_is_settled(bench: Bench, whose: str) -> None:
    admission = asks(**{whose: replace(WIDE, concurrent=2)})  # type: ignore[arg-type]  # one of two keywords
    first = await admitted(bench.quota, again(admission))
    await admitted(bench.quota, again(admission))
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.CONCURRENCY_EXCEEDED, None)
    await bench.quota.settle(entry(first))
    await admitted(bench.quota, again(admission))


async def test_an_expired_hold_counts_until_it_is_settled(bench: Bench) -> None:
    admission = asks(limits=replace(WIDE, concurrent=1))
    hold = await admitted(bench.quota, again(admission))
    bench.clock.forward(3600)
    assert (await denial_of(bench, admission)).code == Code.CONCURRENCY_EXCEEDED
    await bench.quota.settle(entry(hold), only_if_expired=True)
    await admitted(bench.quota, again(admission))


@pytest.mark.parametrize("whose", ["budgets", "tenant_budgets"])
@pytest.mark.parametrize("period", list(Period))
async def test_the_output_is_capped_to_what_the_budget_leaves(bench: Bench, whose: str, period: Period) -> None:
    admission = asks(**{whose: Budgets(**{period: 150})})  # type: ignore[arg-type]  # one of two keywords
    assert (await admitted(bench.quota, again(admission))).output_cap == 90
    answer = await bench.quota.admit(again(admission))
    assert isinstance(answer, Reserved)
    assert (answer.output_cap, answer.limit_status.budget_period, answer.limit_status.budget_remaining) == (
        40,
        period,
        0,
    )


async def test_a_budget_that_running_requests_hold_is_reserved_not_exhausted(bench: Bench) -> None:
    admission = asks(budgets=Budgets(day=100))
    hold = await admitted(bench.quota, again(admission))
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.BUDGET_RESERVED, None)
    await bench.quota.settle(entry(hold, output_tokens=20))
    assert (await admitted(bench.quota, again(admission))).output_cap == 60


@pytest.mark.parametrize(
    ("budgets", "retry_after_s"),
    [
        (Budgets(day=100), 12 * 3600),
        (Budgets(month=100), (9 * 24 + 12) * 3600),
        (Budgets(day=100, month=100), (9 * 24 + 12) * 3600),
        (Budgets(total=100), None),
        (Budgets(day=100, total=100), None),
    ],
)
async def test_a_used_up_budget_is_exhausted_until_its_period_ends(
    bench: Bench, budgets: Budgets, retry_after_s: int | None
) -> None:
    admission = asks(budgets=budgets)
    await bench.quota.settle(entry(await admitted(bench.quota, again(admission)), output_tokens=90))
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.BUDGET_EXHAUSTED, retry_after_s)
    assert denied.limit_status.budget_remaining == 0
    if retry_after_s:
        await admitted_after_retry(bench, admission, denied)


@pytest.mark.parametrize(
    ("now", "days"),
    [
        ("2028-02-01", 29),
        ("2028-02-29", 1),
        ("2027-02-28", 1),
        ("2100-02-28", 1),
        ("2000-02-28", 2),
        ("2027-12-31", 1),
        ("2027-01-01", 31),
        ("2027-03-01", 31),
        ("2027-06-30", 1),
        ("2027-07-31", 1),
    ],
)
async def test_a_month_ends_as_in_the_calendar(bench: Bench, now: str, days: int) -> None:
    bench.clock.now_ms = int(datetime.fromisoformat(f"{now}T00:00:00+00:00").timestamp()) * 1000
    admission = asks(budgets=Budgets(month=100))
    await bench.quota.settle(entry(await admitted(bench.quota, again(admission)), output_tokens=90))
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.BUDGET_EXHAUSTED, days * 86_400)
    await admitted_after_retry(bench, admission, denied)


async def test_a_request_larger_than_the_budget_has_no_retry_time(bench: Bench) -> None:
    denied = await denial_of(bench, asks(input_tokens=100, budgets=Budgets(day=100)))
    assert (denied.code, denied.retry_after_s) == (Code.BUDGET_EXHAUSTED, None)


async def test_embeddings_reserve_no_output(bench: Bench) -> None:
    admission = asks(input_tokens=100, output=0, budgets=Budgets(day=100))
    assert (await admitted(bench.quota, admission)).output_cap == 0
    assert (await denial_of(bench, again(admission))).code == Code.BUDGET_RESERVED


@pytest.mark.parametrize("backlog_max", [3])
async def test_admissions_stop_when_events_fill_the_backlog(bench: Bench, backlog_max: int) -> None:
    holds = [await admitted(bench.quota, asks()) for _ in range(backlog_max + 2)]
    await bench.quota.record(denial())
    for hold in holds[-2:]:
        await admitted(bench.quota, asks())
        await bench.quota.settle(entry(hold))
    denied = await denial_of(bench, asks())
    assert (denied.code, denied.retry_after_s) == (Code.AUDIT_BACKLOG, None)
    await bench.quota.settle(entry(holds[0]))
    await drain(bench.quota, bench.ledger)
    await admitted(bench.quota, asks())


@pytest.mark.parametrize("running_max", [3])
async def test_admissions_stop_while_the_maximum_of_requests_runs(bench: Bench, running_max: int) -> None:
    holds = [await admitted(bench.quota, asks()) for _ in range(running_max)]
    strict = asks(tenant=2, key=21, limits=Limits(rpm=1, tpm=1, concurrent=1))
    for admission in (asks(), strict):
        denied = await denial_of(bench, admission)
        assert (denied.code, denied.retry_after_s) == (Code.UNAVAILABLE, None)
    await bench.quota.settle(entry(holds[0]))
    await admitted(bench.quota, asks())


async def test_five_thousand_requests_of_one_tenant_run_with_the_default_settings(redis_url: str) -> None:
    chosen = Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5.0)
    connection = connect(chosen)
    await connection.flushall()
    quota = RedisQuota(connection, chosen, Ledger().load, restore_s=0)
    for _ in range(50):
        await asyncio.gather(*(admitted(quota, asks()) for _ in range(100)))
    assert await quota.backlog() == Backlog(holds=5000, events=0)
    await quota.aclose()
    await connection.aclose()


async def test_the_code_is_that_of_the_first_check_that_denies(bench: Bench) -> None:
    blocked = asks(
        limits=Limits(rpm=1, tpm=100, concurrent=1), budgets=Budgets(day=100), tenant_budgets=Budgets(month=100)
    )
    hold = await admitted(bench.quota, blocked)
    assert (await denial_of(bench, again(blocked))).code == Code.RATE_LIMIT_EXCEEDED
    for limits, code in [
        (Limits(rpm=9, tpm=100, concurrent=1), Code.CONCURRENCY_EXCEEDED),
        (Limits(rpm=9, tpm=100, concurrent=9), Code.BUDGET_RESERVED),
    ]:
        assert (await denial_of(bench, again(replace(blocked, key_limits=limits)))).code == code
    await bench.quota.settle(entry(hold, output_tokens=90))
    exhausted = replace(blocked, key_limits=Limits(rpm=9, tpm=100, concurrent=9))
    assert (await denial_of(bench, again(exhausted))).code == Code.BUDGET_EXHAUSTED
    unlimited = replace(exhausted, key_budgets=Budgets(), tenant_budgets=Budgets())
    assert (await denial_of(bench, again(unlimited))).code == Code.TOKEN_RATE_EXCEEDED


async def test_the_retry_time_takes_all_checks_into_account(bench: Bench) -> None:
    admission = asks(limits=Limits(rpm=2, tpm=150, concurrent=9))
    await admitted(bench.quota, again(replace(admission, requested_output_tokens=0)))
    bench.clock.forward(20)
    await admitted(bench.quota, again(admission))
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.RATE_LIMIT_EXCEEDED, 60)
    await admitted_after_retry(bench, admission, denied)


async def test_the_retry_time_assumes_the_output_that_a_new_day_allows(bench: Bench) -> None:
    bench.clock.forward(12 * 3600 - 50)
    admission = asks(limits=Limits(rpm=2, tpm=150, concurrent=9), budgets=Budgets(day=140))
    for output, wait_s in ((0, 20), (90, 0)):
        hold = await admitted(bench.quota, again(replace(admission, requested_output_tokens=output)))
        await bench.quota.settle(entry(hold, output_tokens=output))
        bench.clock.forward(wait_s)
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.RATE_LIMIT_EXCEEDED, 60)
    await admitted_after_retry(bench, admission, denied)


async def test_there_is_no_retry_time_while_running_requests_block_too(bench: Bench) -> None:
    admission = asks(limits=Limits(rpm=1, tpm=10_000, concurrent=1))
    await admitted(bench.quota, again(admission))
    denied = await denial_of(bench, admission)
    assert (denied.code, denied.retry_after_s) == (Code.RATE_LIMIT_EXCEEDED, None)


async def test_a_hold_belongs_to_the_day_of_its_admission(bench: Bench) -> None:
    bench.clock.forward(12 * 3600 - 1)
    admission = asks(budgets=Budgets(day=100))
    before = await admitted(bench.quota, again(admission))
    bench.clock.forward(2)
    after = await admitted(bench.quota, again(admission))
    await bench.quota.settle(entry(before, output_tokens=50))
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert (11, Period.DAY) not in counters.used
    assert counters.used[11, Period.MONTH] == 60
    await bench.quota.settle(entry(after, output_tokens=90))
    assert (await denial_of(bench, again(admission))).code == Code.BUDGET_EXHAUSTED


async def test_a_clock_that_goes_back_over_midnight_restores_no_budget(bench: Bench) -> None:
    admission = asks(budgets=Budgets(day=100))
    await bench.quota.settle(entry(await admitted(bench.quota, again(admission)), output_tokens=90))
    bench.clock.forward(24 * 3600)
    await admitted(bench.quota, asks())
    bench.clock.forward(-24 * 3600)
    denied = await bench.quota.admit(again(admission))
    assert isinstance(denied, ReservationDenied)
    assert denied.code == Code.BUDGET_EXHAUSTED


async def test_a_clock_that_returns_to_an_earlier_day_finds_its_usage(bench: Bench) -> None:
    admission = asks(budgets=Budgets(day=100))
    await bench.quota.settle(entry(await admitted(bench.quota, again(admission)), output_tokens=90))
    bench.clock.forward(-48 * 3600)
    for _ in range(2):
        await admitted(bench.quota, again(admission))
        bench.clock.forward(24 * 3600)
    assert (await denial_of(bench, again(admission))).code == Code.BUDGET_EXHAUSTED


async def test_a_small_step_back_of_the_clock_leaves_no_stale_bucket(bench: Bench) -> None:
    admission = asks(limits=replace(WIDE, rpm=3))
    for step_s in (-5, 35, 31):
        await admitted(bench.quota, again(admission))
        bench.clock.forward(step_s)
    await admitted(bench.quota, again(admission))
    await admitted(bench.quota, again(admission))
    assert (await denial_of(bench, again(admission))).code == Code.RATE_LIMIT_EXCEEDED


@pytest.mark.parametrize(("back_s", "free_after_s"), [(5, 65), (3600, 0)])
async def test_a_step_back_of_the_clock_blocks_for_at_most_two_windows(
    bench: Bench, back_s: int, free_after_s: int
) -> None:
    admission = asks(limits=replace(WIDE, rpm=1))
    await admitted(bench.quota, again(admission))
    bench.clock.forward(-back_s)
    answer = await bench.quota.admit(again(admission))
    if free_after_s:
        assert isinstance(answer, ReservationDenied)
        assert answer.retry_after_s == free_after_s
        bench.clock.forward(free_after_s)
        answer = await bench.quota.admit(again(admission))
    assert isinstance(answer, Reserved)


async def test_a_request_id_is_admitted_only_once(bench: Bench) -> None:
    admission = asks()
    hold = await admitted(bench.quota, admission)
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(admission)
    assert await bench.quota.backlog() == Backlog(holds=1, events=0)
    await bench.quota.settle(entry(hold))
    with pytest.raises(StoreUnavailable):
        await bench.quota.admit(admission)
    assert await bench.quota.backlog() == Backlog(holds=0, events=1)


async def test_200_concurrent_requests_on_a_budget_for_20_neither_overspend_nor_waste_it(
    bench: Bench,
) -> None:
    limit = 20 * 100 + 37
    admission = asks(tenant_budgets=Budgets(total=limit))

    async def one(index: int) -> tuple[str, int]:
        mine = again(replace(admission, key_id=index % 7))
        for _ in range(400):
            answer = await bench.quota.admit(mine)
            if isinstance(answer, Reserved):
                hold = hold_of(mine, answer)
                await asyncio.sleep(0)
                await renew(bench.quota, hold, Progress(output_tokens=1))
                output = hold.output_cap if index % 2 else min(5, hold.output_cap)
                await bench.quota.settle(entry(hold, output_tokens=output))
                return "admitted", output
            left = answer.limit_status.budget_remaining
            assert left is not None
            # With 11 tokens neither used nor held, the request would have fitted.
            assert left < 11, answer
            if answer.code == Code.BUDGET_EXHAUSTED:
                return "exhausted", 0
            assert answer.code == Code.BUDGET_RESERVED
            mine = again(mine)
            await asyncio.sleep(0)
        raise AssertionError("the budget stayed reserved")

    ends = await asyncio.gather(*(one(index) for index in range(200)))
    used = sum(10 + output for end, output in ends if end == "admitted")
    assert limit - 11 < used <= limit
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert counters.used[None, Period.TOTAL] == used
    assert (counters.held, counters.in_flight) == ({}, {})
    assert (await bench.quota.backlog()).holds == 0
