from __future__ import annotations

import asyncio
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import DataRefused, StoreUnavailable
from gateway.ledger.store import BATCH_MAX, COLUMNS, Ledger
from gateway.quota.periods import TOTAL_START
from gateway.quota.periods import starts as period_starts
from gateway.quota.port import PeriodUsage, UsageLoader
from gateway.record.entry import Entry
from gateway.record.request import TEXT_LENGTH_MAX
from gateway.stores.postgres import Database
from gateway.values import Outcome, Period, UsageSource
from ops.database.reports import AUDIT_COLUMNS
from ops.database.tenants import TenantRepository
from tests.row_builders import NOON, add_key, entry


@pytest.fixture
def ledger(service_database: Database) -> Ledger:
    return Ledger(service_database)


async def _sums(database: Database) -> dict[tuple[str, int, str, date], tuple[int, int, int]]:
    rows = await database.fetch("SELECT * FROM gateway.budget_usage")
    return {
        (r["subject"], r["subject_id"], r["period"], r["period_start"]): (
            r["input_tokens"],
            r["output_tokens"],
            r["requests"],
        )
        for r in rows
    }


async def test_new_rows_are_reported_once_and_only_after_their_transaction(service_database: Database) -> None:
    reported: list[Entry] = []
    ledger = Ledger(service_database, reported.extend)
    long, denied = entry("é" * 9000), entry("d", outcome=Outcome.DENIED, tenant_id=None, key_id=None)
    await ledger.append([entry("a"), long, entry("a")])
    await ledger.append([entry("a"), denied, entry("b"), long])
    assert sorted(reported, key=lambda each: each.request_id) == [entry("a"), entry("b"), denied, long]
    with pytest.raises(DataRefused):
        await ledger.append([entry("c"), entry("bad", status=2**40)])
    await ledger.append([])
    assert len(reported) == 4


async def test_schema_entry_and_report_have_the_same_columns(database: Database) -> None:
    rows = await database.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'gateway.audit_log'::regclass AND attnum > 0"
        " AND NOT attisdropped"
    )
    # The position in the audit chain has a default.
    schema = {row["attname"] for row in rows} - {"seq"}
    assert set(COLUMNS) == schema == {"ts" if field.name == "ts_ms" else field.name for field in fields(Entry)}
    assert set(AUDIT_COLUMNS) == schema - {"tenant_id", "key_id"}


async def test_a_row_has_every_field_of_its_entry(ledger: Ledger, database: Database) -> None:
    written = entry("r", NOON + timedelta(milliseconds=123), code="lost", outcome=Outcome.LOST)
    await ledger.append([written])
    row = await database.fetchrow("SELECT * FROM gateway.audit_log")
    assert row is not None
    expected = asdict(written)
    del expected["ts_ms"]
    assert row["ts"] == NOON + timedelta(milliseconds=123)
    assert {name: row[name] for name in expected} == expected


async def test_tokens_are_added_to_tenant_and_key_for_day_month_and_total(ledger: Ledger, database: Database) -> None:
    await ledger.append([entry("a"), entry("b", NOON + timedelta(days=1), key_id=2)])
    day, next_day, month = date(2026, 5, 17), date(2026, 5, 18), date(2026, 5, 1)
    assert await _sums(database) == {
        ("tenant", 1, "day", day): (3, 4, 1),
        ("tenant", 1, "day", next_day): (3, 4, 1),
        ("tenant", 1, "month", month): (6, 8, 2),
        ("tenant", 1, "total", TOTAL_START): (6, 8, 2),
        ("key", 1, "day", day): (3, 4, 1),
        ("key", 1, "month", month): (3, 4, 1),
        ("key", 1, "total", TOTAL_START): (3, 4, 1),
        ("key", 2, "day", next_day): (3, 4, 1),
        ("key", 2, "month", month): (3, 4, 1),
        ("key", 2, "total", TOTAL_START): (3, 4, 1),
    }


@pytest.mark.parametrize("at", ["2026-04-30T23:59:59.999+00:00", "2026-05-01T01:30:00+02:00"])
async def test_the_periods_are_those_of_the_entrys_time_in_utc(ledger: Ledger, database: Database, at: str) -> None:
    await ledger.append([entry("a", datetime.fromisoformat(at))])
    starts = {(period, start) for _, _, period, start in await _sums(database)}
    assert starts == {("day", date(2026, 4, 30)), ("month", date(2026, 4, 1)), ("total", TOTAL_START)}


async def test_an_entry_that_is_repeated_in_one_batch_or_in_two_counts_once(ledger: Ledger, database: Database) -> None:
    await ledger.append([entry("a"), entry("b"), entry("a")])
    await ledger.append([entry("b"), entry("c")])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 3
    assert (await _sums(database))["tenant", 1, "total", TOTAL_START] == (9, 12, 3)


async def test_append_returns_the_tenants_of_repeated_entries_but_not_of_denials(ledger: Ledger) -> None:
    others: dict[str, Any] = {"tenant_id": 2, "key_id": 2}
    denied: dict[str, Any] = {"outcome": Outcome.DENIED}
    keyless: dict[str, Any] = {**denied, "tenant_id": None, "key_id": None}
    batch = [entry("a"), entry("b", **others), entry("c", **denied), entry("d", **keyless)]
    assert await ledger.append(batch) == set()
    assert await ledger.append([entry("e"), *batch[1:]]) == {2}
    assert await ledger.append([entry("f"), entry("g", **others), entry("f"), *batch[2:]]) == {1}
    assert await ledger.append(batch * BATCH_MAX) == {1, 2}
    assert await ledger.append([]) == set()


async def test_concurrent_writers_with_the_same_batches_count_each_request_once(
    ledger: Ledger, database: Database
) -> None:
    entries = [entry(f"r{n}", tenant_id=n % 3, key_id=n % 7) for n in range(100)]
    await asyncio.gather(ledger.append(entries), ledger.append(entries[::-1]), ledger.append(entries[50:]))
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 100
    sums = await _sums(database)
    assert sum(sums["tenant", tenant_id, "total", TOTAL_START][2] for tenant_id in range(3)) == 100


async def test_denials_with_and_without_a_key_leave_a_row_and_no_usage(ledger: Ledger, database: Database) -> None:
    keyless: dict[str, Any] = {"tenant_id": None, "tenant": None, "key_id": None, "key_prefix": None}
    await ledger.append([entry("a", outcome=Outcome.DENIED), entry("b", outcome=Outcome.DENIED, **keyless)])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 2
    assert await _sums(database) == {}


async def test_a_request_that_has_a_row_gets_no_second_one_as_a_denial(ledger: Ledger, database: Database) -> None:
    """Envoy's report of a denial has the time of the request's arrival, and neither tenant nor key."""
    arrived = NOON - timedelta(minutes=1)
    await ledger.append([entry("denied", outcome=Outcome.DENIED), entry("settled")])
    by_envoy = [
        entry(name, arrived, outcome=Outcome.DENIED, tenant_id=None, key_id=None)
        for name in ("denied", "settled", "other")
    ]
    assert await ledger.append(by_envoy) == frozenset()
    rows = await database.fetch("SELECT request_id, tenant_id FROM gateway.audit_log ORDER BY 1")
    assert [tuple(row) for row in rows] == [("denied", 1), ("other", None), ("settled", 1)]


async def test_entries_for_more_than_one_statement_are_all_recorded(ledger: Ledger, database: Database) -> None:
    await ledger.append([entry(f"r{n}") for n in range(2 * BATCH_MAX + 1)])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 2 * BATCH_MAX + 1


async def test_an_empty_batch_is_accepted(ledger: Ledger, database: Database) -> None:
    await ledger.append([])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 0


async def test_a_batch_that_fails_leaves_no_rows(ledger: Ledger, database: Database) -> None:
    batch = [entry(f"r{n}") for n in range(BATCH_MAX)]
    with pytest.raises(DataRefused):
        await ledger.append([*batch, entry("bad", status=2**40)])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 0
    assert await _sums(database) == {}


async def test_rows_far_in_the_past_and_the_future_are_recorded(ledger: Ledger, database: Database) -> None:
    await ledger.append([entry("a", datetime(2001, 1, 1, tzinfo=UTC)), entry("b", datetime(2199, 1, 1, tzinfo=UTC))])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log_default") == 2


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters()), min_size=4, max_size=4))
async def test_any_text_of_a_caller_can_be_recorded(ledger: Ledger, database: Database, texts: list[str]) -> None:
    path, model, agent, request_id = texts
    await ledger.append([entry(request_id, path=path, model=model, user_agent=agent)])
    await database.execute("TRUNCATE gateway.budget_usage")


async def test_a_long_text_is_cut(ledger: Ledger, database: Database) -> None:
    await ledger.append([entry("é" * 9000, user_agent="x" * 100_000)])
    row = await database.fetchrow("SELECT length(request_id) AS id, length(user_agent) AS agent FROM gateway.audit_log")
    assert row is not None
    assert tuple(row) == (TEXT_LENGTH_MAX, TEXT_LENGTH_MAX)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.audit_log SET input_tokens = 0",
        "DELETE FROM gateway.audit_log",
        "TRUNCATE gateway.audit_log",
        "DELETE FROM gateway.audit_log_default",
    ],
)
async def test_rows_of_the_audit_log_cannot_be_changed_or_deleted(
    ledger: Ledger, database: Database, statement: str
) -> None:
    await ledger.append([entry("a", datetime.now(UTC)), entry("b", datetime(2001, 1, 1, tzinfo=UTC))])
    with pytest.raises(StoreUnavailable, match="InsufficientPrivilege"):
        await database.execute(statement)
    assert await database.fetchval("SELECT sum(input_tokens) FROM gateway.audit_log") == 6


class TestUsageOf:
    async def test_it_is_a_usage_loader(self, ledger: Ledger) -> None:
        loader: UsageLoader = ledger.usage_of
        assert (await loader(1, NOON, [])).used == ()

    async def test_only_current_periods_of_the_tenant_and_its_keys_are_read(
        self, ledger: Ledger, database: Database
    ) -> None:
        tenants = TenantRepository(database)
        tenant = await tenants.create_tenant("acme", {})
        await tenants.create_tenant("other", {})
        key, foreign = await add_key(tenants), await add_key(tenants, tenant="other")
        own: dict[str, Any] = {"tenant_id": tenant.id, "key_id": key.id}
        await ledger.append(
            [
                entry("today", **own),
                entry("last month", NOON - timedelta(days=30), **own),
                entry("foreign", tenant_id=tenant.id + 1, key_id=foreign.id),
            ]
        )
        usage = await ledger.usage_of(tenant.id, NOON, ["today", "foreign", "waits"])
        assert usage.recorded == {"today", "foreign"}
        starts = period_starts(NOON)
        subjects: list[tuple[Literal["tenant", "key"], int]] = [("tenant", tenant.id), ("key", key.id)]
        tokens = {Period.DAY: 7, Period.MONTH: 7, Period.TOTAL: 14}
        assert set(usage.used) == {
            PeriodUsage(subject, subject_id, period, starts[period], tokens[period])
            for subject, subject_id in subjects
            for period in Period
        }

    async def test_sums_and_recorded_ids_agree_while_rows_are_written(self, ledger: Ledger) -> None:
        entries = [entry(f"r{n}", input_tokens=1, output_tokens=0) for n in range(60)]
        ids = [each.request_id for each in entries]

        async def write() -> None:
            for each in entries:
                await ledger.append([each])

        writing = asyncio.create_task(write())
        while not writing.done():
            usage = await ledger.usage_of(1, NOON, ids)
            total = sum(u.tokens for u in usage.used if (u.subject, u.period) == ("tenant", Period.TOTAL))
            assert total == len(usage.recorded)
        await writing


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), date(2026, 12, 31), date(2026, 12, 1)),
        (datetime.fromisoformat("2027-01-01T00:30:00+01:00"), date(2026, 12, 31), date(2026, 12, 1)),
        (datetime(2024, 2, 29, tzinfo=UTC), date(2024, 2, 29), date(2024, 2, 1)),
    ],
)
def test_periods_start_at_midnight_utc(now: datetime, day: date, month: date) -> None:
    assert period_starts(now) == {Period.DAY: day, Period.MONTH: month, Period.TOTAL: TOTAL_START}


async def test_every_outcome_and_usage_source_can_be_recorded(ledger: Ledger, database: Database) -> None:
    pairs = list(product(Outcome, UsageSource))
    await ledger.append(
        [entry(f"{outcome} {source}", outcome=outcome, usage_source=source) for outcome, source in pairs]
    )
    rows = await database.fetch("SELECT request_id, outcome::text, usage_source::text FROM gateway.audit_log")
    assert {row["request_id"]: (row["outcome"], row["usage_source"]) for row in rows} == {
        f"{outcome} {source}": (outcome, source) for outcome, source in pairs
    }
