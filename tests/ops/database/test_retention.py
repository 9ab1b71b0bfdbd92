from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gateway.ledger.store import Ledger
from gateway.stores.postgres import Database
from meter.prompt_log.store import PromptLog, PromptRecord
from ops.database.retention import AUDIT_MONTHS_AHEAD, PROMPTS_PER_STATEMENT, Retention
from tests.row_builders import entry

NOW = datetime.now(UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def database_url(fresh_database_url: str) -> str:
    """A new schema for each test, because these tests add partitions to it."""
    return fresh_database_url


def _month(months: int) -> datetime:
    """Returns the start of the UTC month that is `months` months from now."""
    year, month = divmod(NOW.year * 12 + NOW.month - 1 + months, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


async def _partitions(database: Database) -> list[str]:
    rows = await database.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'gateway.audit_log'::regclass"
    )
    return sorted(row["name"].removeprefix("gateway.audit_log_") for row in rows)


async def _partition_of(database: Database, request_id: str) -> str:
    name: str = await database.fetchval(
        "SELECT tableoid::regclass::text FROM gateway.audit_log WHERE request_id = $1", request_id
    )
    return name.removeprefix("gateway.audit_log_")


async def _make_partition(database: Database, month: datetime) -> None:
    await database.execute(
        f"CREATE TABLE gateway.audit_log_{month:%Y_%m} PARTITION OF gateway.audit_log "
        f"FOR VALUES FROM ('{month}') TO ('{(month + timedelta(days=32)).replace(day=1)}')"
    )


async def test_partitions_of_the_coming_months_are_created_once(database: Database) -> None:
    expected = sorted([*(f"{_month(n):%Y_%m}" for n in range(AUDIT_MONTHS_AHEAD + 1)), "default"])
    assert await _partitions(database) == expected
    assert (await Retention(database).prune(LONG_AGO, NOW)).partitions_made == 0


async def test_rows_move_from_the_default_partition_to_a_new_one_and_stay_append_only(database: Database) -> None:
    ahead = AUDIT_MONTHS_AHEAD + 1
    first, last = _month(ahead), _month(ahead + 1) - timedelta(milliseconds=1)
    beyond = _month(ahead + 1)
    ledger = Ledger(database)
    await ledger.append([entry("first", first), entry("last", last), entry("beyond", beyond)])
    assert await _partition_of(database, "first") == "default"
    assert await database.fetchval("SELECT gateway.ensure_audit_partitions($1)", ahead) == 1
    assert [await _partition_of(database, name) for name in ("first", "last", "beyond")] == [
        f"{first:%Y_%m}",
        f"{first:%Y_%m}",
        "default",
    ]
    triggers = await database.fetchval(
        "SELECT array_agg(tgname::text ORDER BY tgname) FROM pg_trigger"
        " WHERE tgrelid = 'gateway.audit_log_default'::regclass AND NOT tgisinternal"
    )
    assert triggers == ["audit_log_append_only"]
    await ledger.append([entry("first", first), entry("late", first)])
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 4


async def test_partitions_are_created_concurrently_without_a_collision(database: Database) -> None:
    made = await asyncio.gather(
        *(database.fetchval("SELECT gateway.ensure_audit_partitions($1)", AUDIT_MONTHS_AHEAD + 2) for _ in range(4))
    )
    assert sorted(made) == [0, 0, 0, 2]


async def test_a_month_is_dropped_only_when_its_last_row_is_too_old(database: Database) -> None:
    old, older = _month(-2), _month(-3)
    for month in (old, older):
        await _make_partition(database, month)
    await Ledger(database).append([entry("old", old), entry("older", older)])
    retention = Retention(database)
    before_the_end = _month(-1) - timedelta(milliseconds=1)
    assert (await retention.prune(before_the_end, NOW)).audit_partitions == (f"audit_log_{older:%Y_%m}",)
    assert [r["request_id"] for r in await database.fetch("SELECT request_id FROM gateway.audit_log")] == ["old"]
    assert (await retention.prune(_month(-1), NOW)).audit_partitions == (f"audit_log_{old:%Y_%m}",)
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 0


async def test_old_rows_of_the_default_partition_are_deleted_and_recent_ones_stay(database: Database) -> None:
    await Ledger(database).append([entry("old", LONG_AGO), entry("young", _month(60)), entry("now", NOW)])
    await Retention(database).prune(NOW - timedelta(days=365), NOW)
    rows = await database.fetch("SELECT request_id FROM gateway.audit_log")
    assert {row["request_id"] for row in rows} == {"young", "now"}


async def test_usage_outlives_the_audit_rows_it_was_summed_from(database: Database) -> None:
    await Ledger(database).append([entry("old", LONG_AGO)])
    await Retention(database).prune(NOW, NOW)
    assert await database.fetchval("SELECT sum(output_tokens) FROM gateway.budget_usage WHERE period = 'total'") == 8


def _prompt(request_id: str, expires_at: datetime) -> PromptRecord:
    return PromptRecord(request_id, NOW, 1, 1, "m:latest", "why?\0", "because \ud800", expires_at)


async def test_only_expired_prompts_are_deleted(database: Database) -> None:
    await PromptLog(database).append(
        [_prompt("past", NOW - timedelta(seconds=1)), _prompt("now", NOW), _prompt("later", NOW + timedelta(seconds=1))]
    )
    assert (await Retention(database).prune(LONG_AGO, NOW)).prompts == 2
    row = await database.fetchrow("SELECT request_id, request, response FROM gateway.prompt_log")
    assert row is not None
    assert tuple(row) == ("later", "why?\ufffd", "because ?")


async def test_all_expired_prompts_are_deleted_even_if_one_statement_is_not_enough(database: Database) -> None:
    await database.execute(
        "INSERT INTO gateway.prompt_log SELECT n::text, now(), 1, 1, 'm', '', '', now() FROM generate_series(1, $1) n",
        PROMPTS_PER_STATEMENT + 1,
    )
    assert (await Retention(database).prune(LONG_AGO, datetime.now(UTC))).prompts == PROMPTS_PER_STATEMENT + 1


async def test_a_prompt_recorded_twice_is_stored_once_and_is_not_in_its_repr(
    database: Database, service_database: Database
) -> None:
    record = _prompt("a", NOW)
    await PromptLog(service_database).append([record, record])
    assert await database.fetchval("SELECT count(*) FROM gateway.prompt_log") == 1
    assert "why" not in repr(record)


@pytest.mark.parametrize("months_ahead", [0, 12])
async def test_partitions_are_adjacent(database: Database, months_ahead: int) -> None:
    await database.fetchval("SELECT gateway.ensure_audit_partitions($1)", months_ahead)
    moments = [_month(n) + offset for n in range(months_ahead + 1) for offset in (timedelta(0), timedelta(days=27))]
    await Ledger(database).append([entry(str(n), moment) for n, moment in enumerate(moments)])
    assert [await _partition_of(database, str(n)) for n in range(len(moments))] == [f"{m:%Y_%m}" for m in moments]
