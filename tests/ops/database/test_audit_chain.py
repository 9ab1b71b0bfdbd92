"""The audit chain detects every manipulation of the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.audit_chain import AuditChain, ChainReport
from ops.database.retention import Retention
from tests.row_builders import entry

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
async def database(fresh_database_url: str) -> AsyncIterator[Database]:
    opened = Database(Settings.model_validate({"database_url": fresh_database_url}))
    yield opened
    await opened.close()


async def verify(database: Database, noted_head: tuple[int, str] | None = None) -> ChainReport:
    return await AuditChain(database).verify(LONG_AGO, noted_head)


async def tamper(database: Database, *statements: str) -> None:
    """Executes statements as an owner of the tables who bypasses the triggers."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)


@pytest.fixture
async def chained(database: Database) -> ChainReport:
    """Three links of two rows each."""
    ledger = Ledger(database)
    for batch in ("ab", "cd", "ef"):
        await ledger.append([entry(each) for each in batch])
    return await verify(database)


async def test_rows_of_one_batch_form_one_link(chained: ChainReport) -> None:
    assert (chained.links, chained.rows, chained.problems) == (3, 6, ())
    assert chained.head is not None
    assert chained.head[0] == 3


async def test_a_batch_of_recorded_rows_adds_no_link(database: Database, chained: ChainReport) -> None:
    await Ledger(database).append([entry("a"), entry("b")])
    assert await verify(database) == chained


async def test_concurrent_writers_form_one_chain(database: Database) -> None:
    ledger = Ledger(database)
    await asyncio.gather(*(ledger.append([entry(f"r{number}")]) for number in range(20)))
    report = await verify(database)
    assert (report.links, report.rows, report.problems) == (20, 20, ())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.audit_log SET output_tokens = 0 WHERE request_id = 'c'",
        "UPDATE gateway.audit_log SET tenant = NULL WHERE request_id = 'f'",
        "DELETE FROM gateway.audit_log WHERE request_id = 'a'",
        "DELETE FROM gateway.audit_log WHERE request_id IN ('c', 'd')",
        "DELETE FROM gateway.audit_chain WHERE link = 2",
        "UPDATE gateway.audit_chain SET digest = sha256('x') WHERE link = 3",
        "UPDATE gateway.audit_chain SET hash = sha256('x') WHERE link = 1",
        "UPDATE gateway.audit_chain SET link = 9 WHERE link = 3",
        "INSERT INTO gateway.audit_log SELECT * FROM jsonb_populate_record(NULL::gateway.audit_log, "
        "(SELECT to_jsonb(a) || '{\"request_id\": \"z\"}' FROM gateway.audit_log a WHERE request_id = 'a'))",
        "INSERT INTO gateway.audit_log SELECT * FROM jsonb_populate_record(NULL::gateway.audit_log, "
        "(SELECT to_jsonb(a) || jsonb_build_object('link', NULL, 'ts', now() + interval '2 hours')"
        " FROM gateway.audit_log a WHERE request_id = 'a'))",
    ],
)
async def test_a_manipulation_is_reported(database: Database, chained: ChainReport, statement: str) -> None:
    assert chained.problems == ()
    await tamper(database, statement)
    assert (await verify(database)).problems != ()


async def test_a_noted_head_reveals_a_truncated_and_extended_chain(database: Database, chained: ChainReport) -> None:
    await tamper(
        database,
        "DELETE FROM gateway.audit_log WHERE request_id IN ('e', 'f')",
        "DELETE FROM gateway.audit_chain WHERE link = 3",
    )
    assert (await verify(database)).problems == ()
    assert (await verify(database, chained.head)).problems != ()
    await Ledger(database).append([entry("forged")])
    assert (await verify(database)).problems == ()
    assert (await verify(database, chained.head)).problems != ()


async def test_a_noted_head_stays_valid_when_the_chain_grows(database: Database, chained: ChainReport) -> None:
    await Ledger(database).append([entry("later")])
    assert (await verify(database, chained.head)).problems == ()


async def test_retention_removes_rows_and_links_without_a_reported_problem(database: Database) -> None:
    now = datetime.now(UTC)
    await database.execute("SELECT gateway.ensure_audit_partitions(0)")
    old = now - timedelta(days=800)
    ledger = Ledger(database)
    await ledger.append([entry("old", at=old)])
    await ledger.append([entry("older", at=old), entry("mixed", at=now)])
    await ledger.append([entry("new", at=now)])
    kept_since = now - timedelta(days=365)
    pruned = await Retention(database).prune(kept_since, now)
    assert pruned.audit_links == 1
    report = await AuditChain(database).verify(kept_since)
    assert (report.links, report.rows, report.problems) == (2, 2, ())
    assert (await verify(database)).problems != ()


async def test_a_row_keeps_its_link_when_it_moves_to_its_partition(database: Database) -> None:
    next_month = datetime.now(UTC) + timedelta(days=150)
    await Ledger(database).append([entry("early", at=next_month)])
    before = await verify(database)
    await database.execute("SELECT gateway.ensure_audit_partitions(6)")
    assert await verify(database) == before
    assert before.problems == ()
