"""The audit chain detects every manipulation of the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.audit_chain import AuditChain, ChainReport
from ops.database.audit_seal import AuditSealer
from ops.database.retention import Retention
from tests.row_builders import entry

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
async def fresh_database(fresh_database_url: str) -> AsyncIterator[Database]:
    """A database whose partitions the test changes."""
    opened = Database(Settings.model_validate({"database_url": fresh_database_url}))
    yield opened
    await opened.close()


async def verify(
    database: Database, noted: tuple[int, str] | None = None, start: tuple[int, str] | None = None
) -> ChainReport:
    return await AuditChain(database).verify(LONG_AGO, noted, start)


async def append(database: Database, *ids: str, at: datetime | None = None) -> None:
    """Appends rows and seals them into a link."""
    await Ledger(database).append([entry(each, at) if at else entry(each) for each in ids])
    await AuditSealer(database, link_every_s=0).seal()


async def tamper(database: Database, *statements: str) -> None:
    """Executes statements as an owner of the tables who bypasses the triggers."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)


def noted(report: ChainReport) -> tuple[int, str]:
    assert report.head is not None
    return report.head.link, report.head.hash


@pytest.fixture
async def chained(database: Database) -> ChainReport:
    """Three links of two rows each."""
    for batch in ("ab", "cd", "ef"):
        await append(database, *batch)
    return await verify(database)


async def test_every_row_is_in_a_link_and_the_head_counts_them(chained: ChainReport) -> None:
    assert (chained.links, chained.rows, chained.problems) == (3, 6, ())
    assert chained.head is not None
    assert (chained.head.link, chained.head.rows_total) == (3, 6)
    assert (chained.unsealed.rows, chained.unsealed.since) == (0, None)


async def test_the_chain_of_an_empty_log_is_clean(database: Database) -> None:
    report = await verify(database)
    assert (report.links, report.rows, report.head, report.problems) == (0, 0, None, ())


async def test_rows_after_the_last_link_are_reported_and_no_problem(database: Database, chained: ChainReport) -> None:
    at = datetime(2026, 5, 17, tzinfo=UTC)
    await Ledger(database).append([entry("g", at + timedelta(hours=1)), entry("h", at)])
    report = await verify(database)
    assert (report.unsealed.rows, report.unsealed.since) == (2, at)
    assert (report.head, report.rows, report.problems) == (chained.head, 6, ())


def copy_of(request_id: str, **changes: str) -> str:
    """A statement that inserts a copy of row `a` with another id; `changes` are SQL expressions by column."""
    values = {"request_id": f"'{request_id}'", **changes}
    changed = ", ".join(f"'{column}', {expression}" for column, expression in values.items())
    return f"""
        INSERT INTO gateway.audit_log SELECT * FROM jsonb_populate_record(NULL::gateway.audit_log,
            (SELECT to_jsonb(a) || jsonb_build_object({changed}) FROM gateway.audit_log a WHERE request_id = 'a'))
    """  # noqa: S608 (the names are this module's own)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.audit_log SET output_tokens = 0 WHERE request_id = 'c'",
        "UPDATE gateway.audit_log SET tenant = NULL WHERE request_id = 'f'",
        "UPDATE gateway.audit_log SET ts = '2001-01-01' WHERE request_id = 'c'",
        "UPDATE gateway.audit_log SET seq = 7 - seq",
        "UPDATE gateway.audit_log SET seq = 3 WHERE request_id = 'a'",
        "DELETE FROM gateway.audit_log WHERE request_id = 'a'",
        "DELETE FROM gateway.audit_log WHERE request_id IN ('c', 'd')",
        "DELETE FROM gateway.audit_chain WHERE link = 1",
        "DELETE FROM gateway.audit_chain WHERE link = 2",
        "UPDATE gateway.audit_chain SET digest = sha256('x') WHERE link = 3",
        "UPDATE gateway.audit_chain SET hash = sha256('x') WHERE link = 1",
        "UPDATE gateway.audit_chain SET link = 9 WHERE link = 3",
        "UPDATE gateway.audit_chain SET rows_total = 0",
        "UPDATE gateway.audit_chain SET sealed_at = now()",
        "UPDATE gateway.audit_chain SET link = CASE link WHEN 2 THEN 13 ELSE 12 END WHERE link > 1",
        copy_of("z"),
        copy_of("z", ts="now() - interval '2 years'"),
        copy_of("z", ts="now() + interval '2 hours'"),
        copy_of("z", seq="0"),
        copy_of("z", seq="6", ts="'2001-01-01'"),
    ],
)
async def test_a_manipulation_is_reported(database: Database, chained: ChainReport, statement: str) -> None:
    assert chained.problems == ()
    await tamper(database, statement)
    assert (await verify(database)).problems != ()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.audit_log SET output_tokens = 0 WHERE request_id = 'c'",
        "UPDATE gateway.audit_log SET output_tokens = 0 WHERE request_id = 'f'",
        "DELETE FROM gateway.audit_log WHERE request_id = 'd'",
        "DELETE FROM gateway.audit_chain WHERE link = 2",
        "DELETE FROM gateway.audit_chain WHERE link > 1",
        "DELETE FROM gateway.audit_chain WHERE link < 3",
        "UPDATE gateway.audit_chain SET hash = sha256('x') WHERE link = 2",
        copy_of("z", seq="4", ts="'2001-01-01'"),
    ],
)
async def test_a_manipulation_after_the_start_is_reported(
    database: Database, chained: ChainReport, statement: str
) -> None:
    (start,) = await database.fetch("SELECT link, encode(hash, 'hex') FROM gateway.audit_chain WHERE link = 2")
    clean = await verify(database, start=(start[0], start[1]))
    assert (clean.links, clean.rows, clean.head, clean.problems) == (2, 4, chained.head, ())
    await tamper(database, statement)
    assert (await verify(database, start=(start[0], start[1]))).problems != ()


async def test_links_before_the_start_are_not_read(database: Database, chained: ChainReport) -> None:
    await tamper(database, "UPDATE gateway.audit_log SET output_tokens = 0 WHERE request_id = 'a'")
    assert (await verify(database, start=noted(chained))).problems == ()


async def test_a_noted_head_reveals_a_truncated_and_extended_chain(database: Database, chained: ChainReport) -> None:
    await tamper(
        database,
        "DELETE FROM gateway.audit_log WHERE request_id IN ('e', 'f')",
        "DELETE FROM gateway.audit_chain WHERE link = 3",
    )
    assert (await verify(database)).problems == ()
    assert (await verify(database, noted(chained))).problems != ()
    assert (await verify(database, start=noted(chained))).problems != ()
    await append(database, "forged")
    assert (await verify(database)).problems == ()
    assert (await verify(database, noted(chained))).problems != ()
    assert (await verify(database, start=noted(chained))).problems != ()


async def test_a_noted_head_stays_valid_when_the_chain_grows(database: Database, chained: ChainReport) -> None:
    await append(database, "later")
    assert (await verify(database, noted(chained))).problems == ()
    report = await verify(database, start=noted(chained))
    assert (report.links, report.rows, report.problems) == (2, 3, ())


async def test_retention_removes_rows_and_links_without_a_reported_problem(fresh_database: Database) -> None:
    database = fresh_database
    now = datetime.now(UTC)
    await database.execute("SELECT gateway.ensure_audit_partitions(0)")
    old = now - timedelta(days=800)
    await append(database, "old", at=old)
    await Ledger(database).append([entry("older", at=old), entry("mixed", at=now)])
    await AuditSealer(database, link_every_s=0).seal()
    await append(database, "new", at=now)
    await append(database, "late", at=old)
    await append(database, "last", at=now)
    kept_since = now - timedelta(days=365)
    pruned = await Retention(database).prune(kept_since, now)
    assert pruned.audit_links == 1
    report = await AuditChain(database).verify(kept_since)
    assert (report.links, report.rows, report.problems) == (4, 3, ())
    assert (await verify(database)).problems != ()


async def test_the_chain_continues_although_retention_removed_every_row(fresh_database: Database) -> None:
    database = fresh_database
    await append(database, "old", at=LONG_AGO)
    await append(database, "older", at=LONG_AGO)
    now = datetime.now(UTC)
    assert (await Retention(database).prune(now, now)).audit_links == 1
    await append(database, "new", at=now)
    report = await AuditChain(database).verify(now)
    assert (report.links, report.rows, report.problems) == (2, 1, ())
    assert report.head is not None
    assert (report.head.link, report.head.rows_total) == (3, 3)


async def test_a_row_keeps_its_link_when_it_moves_to_its_partition(fresh_database: Database) -> None:
    database = fresh_database
    next_month = datetime.now(UTC) + timedelta(days=150)
    await append(database, "early", at=next_month)
    await Ledger(database).append([entry("unsealed", at=next_month)])
    before = await verify(database)
    await database.execute("SELECT gateway.ensure_audit_partitions(6)")
    assert await verify(database) == before
    assert before.problems == ()
    await AuditSealer(database, link_every_s=0).seal()
    after = await verify(database)
    assert after == replace(after, rows=2, problems=())


@pytest.mark.parametrize("reason", ["NULL", "'revoked'"])
async def test_a_changed_reason_is_found(database: Database, reason: str) -> None:
    denied = [replace(entry("a"), reason="wrong_secret"), replace(entry("b"), reason="wrong_secret")]
    await Ledger(database).append(denied)
    await AuditSealer(database, link_every_s=0).seal()
    assert (await verify(database)).problems == ()
    await tamper(database, f"UPDATE gateway.audit_log SET reason = {reason} WHERE request_id = 'a'")  # noqa: S608 (ours)
    assert "changed" in (await verify(database)).problems[0]


async def test_an_inserted_row_with_a_number_before_the_first_is_found(
    database: Database, chained: ChainReport
) -> None:
    assert chained.problems == ()
    forged = """(jsonb_populate_record(a, '{"seq": -1, "request_id": "forged"}')).*"""
    await tamper(
        database,
        f"INSERT INTO gateway.audit_log SELECT {forged} FROM gateway.audit_log a WHERE request_id = 'a'",  # noqa: S608 (ours)
    )
    assert "rows were inserted" in (await verify(database)).problems[0]
