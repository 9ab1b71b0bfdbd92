"""Rows are sealed by any number of processes while others insert them, each row once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.audit_chain import AuditChain, ChainReport
from ops.database.audit_seal import AuditSealer, LinkSize
from tests.polling import eventually_async
from tests.row_builders import NOON, entry

SLOW_ABOVE_ROWS = 10
# Several attempts reach the deadline one after another.
TIMEOUT_S = 60.0


async def verify(database: Database) -> ChainReport:
    return await AuditChain(database).verify(NOON)


async def test_light_traffic_adds_one_link_per_interval_and_an_idle_log_none(database: Database) -> None:
    ledger, sealer = Ledger(database), AuditSealer(database)
    assert await sealer.seal() == 0
    for name in "abc":
        await ledger.append([entry(name)])
        await sealer.seal()
    report = await verify(database)
    assert (report.links, report.rows, report.unsealed.rows) == (1, 1, 2)
    due = AuditSealer(database, link_every_s=0)
    assert [await due.seal(), await due.seal()] == [2, 0]
    report = await verify(database)
    assert (report.links, report.rows, report.unsealed.rows, report.problems) == (2, 3, 0, ())


async def test_many_rows_are_sealed_without_waiting_and_in_links_of_bounded_size(database: Database) -> None:
    ledger, sealer = Ledger(database), AuditSealer(database, link_rows_max=10)
    await ledger.append([entry(f"r{n}") for n in range(25)])
    assert await sealer.seal() == 20
    report = await verify(database)
    assert (report.links, report.rows, report.unsealed.rows, report.problems) == (2, 20, 5, ())


@pytest.fixture
async def slow_links(database_url: str) -> AsyncIterator[None]:
    """A link of more than SLOW_ABOVE_ROWS rows takes longer than any deadline."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        f"""CREATE FUNCTION gateway.slow_link() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.rows > {SLOW_ABOVE_ROWS} THEN PERFORM pg_sleep(600); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER slow BEFORE INSERT ON gateway.audit_chain FOR EACH ROW EXECUTE FUNCTION gateway.slow_link()"""
    )
    yield
    # A statement that still sleeps holds a lock that the next one would wait for.
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event = 'PgSleep'"
    )
    await connection.execute("DROP FUNCTION gateway.slow_link() CASCADE")
    await connection.close()


@pytest.mark.usefixtures("slow_links")
async def test_rows_that_take_longer_than_the_deadline_are_sealed_in_smaller_links(
    database: Database, database_settings: Settings
) -> None:
    await Ledger(database).append([entry(f"r{n}") for n in range(35)])
    impatient = Database(database_settings.model_copy(update={"database_timeout_s": 1.0}))
    sealer = AuditSealer(impatient, link_every_s=0, link_rows_max=40)
    sizes: list[int] = []

    async def all_are_sealed() -> bool:
        try:
            await sealer.seal()
        finally:
            links = await database.fetch("SELECT rows FROM gateway.audit_chain ORDER BY link")
            sizes[:] = [link["rows"] for link in links]
        return sum(sizes) == 35

    await eventually_async(all_are_sealed, TIMEOUT_S, retry_on=(StoreUnavailable,), failure=lambda: sizes)
    await impatient.close()
    assert max(sizes) <= SLOW_ABOVE_ROWS
    running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    assert await database.fetchval(running) == 0
    report = await verify(database)
    assert (report.rows, report.unsealed.rows, report.problems) == (35, 0, ())


def test_a_link_is_halved_after_a_failure_and_grows_only_while_it_takes_a_fraction_of_the_deadline() -> None:
    size = LinkSize(rows_max=100, deadline_s=2.0)
    rows = []
    for duration_s in (None, None, None, 0.6, 0.4, 0.5, 0.1, 0.1, 0.1):
        if duration_s is None:
            size.failed()
        else:
            size.created(duration_s)
        rows.append(size.rows)
    assert rows == [50, 25, 12, 12, 24, 24, 48, 96, 100]
    for _ in range(9):
        size.failed()
    assert size.rows == 1


async def test_repeated_rows_are_not_sealed_again(database: Database) -> None:
    ledger, sealer = Ledger(database), AuditSealer(database, link_every_s=0)
    await ledger.append([entry("a"), entry("b")])
    await sealer.seal()
    before = await verify(database)
    await ledger.append([entry("a"), entry("b")])
    assert await sealer.seal() == 0
    assert await verify(database) == before


async def test_a_row_that_commits_late_is_in_a_later_link(database: Database, database_url: str) -> None:
    ledger, sealer = Ledger(database), AuditSealer(database, link_every_s=0)
    late = await asyncpg.connect(database_url)
    await ledger.append([entry("template")])
    await sealer.seal()
    async with late.transaction():
        await late.execute(
            "INSERT INTO gateway.audit_log SELECT (jsonb_populate_record(NULL::gateway.audit_log, to_jsonb(a) ||"
            " jsonb_build_object('request_id', 'late', 'seq', nextval('gateway.audit_log_seq')))).*"
            " FROM gateway.audit_log a"
        )
        await ledger.append([entry("early")])
        assert await sealer.seal() == 0
        assert (await verify(database)).unsealed.rows == 1
        # The mark of the first attempt is before this row, whose transaction is of no interest for it.
        await ledger.append([entry("newer")])
        assert await sealer.seal() == 0
    await late.close()
    assert await sealer.seal() == 2
    assert await sealer.seal() == 1
    report = await verify(database)
    assert (report.links, report.rows, report.unsealed.rows, report.problems) == (3, 4, 0, ())


async def test_an_append_takes_no_lock_that_another_append_waits_for(database: Database, database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('gateway.audit_chain', 0))")
        await other.execute("INSERT INTO gateway.audit_chain VALUES (9, 9, 9, now(), now(), 1, 1, now(), '', '', '')")
        await Ledger(database).append([entry("a")])
        assert await AuditSealer(database, link_every_s=0).seal() == 0
        await other.execute("DELETE FROM gateway.audit_chain")
    await other.close()
    assert await AuditSealer(database, link_every_s=0).seal() == 1


@pytest.mark.parametrize("link_rows_max", [7, 10_000])
async def test_concurrent_appends_and_sealers_leave_each_row_in_one_link(
    database: Database, link_rows_max: int
) -> None:
    ledger = Ledger(database)
    appending = True

    async def append(drain: int) -> None:
        for batch in range(15):
            await ledger.append([entry(f"{drain} {batch} {n}") for n in range(1 + (drain + batch) % 4)])

    async def seal() -> None:
        sealer = AuditSealer(database, link_every_s=0, link_rows_max=link_rows_max)
        while appending:
            await sealer.seal()
            await asyncio.sleep(0)

    sealing = [asyncio.create_task(seal()) for _ in range(3)]
    await asyncio.gather(*(append(drain) for drain in range(5)))
    appending = False
    await asyncio.gather(*sealing)
    await AuditSealer(database, link_every_s=0, link_rows_max=link_rows_max).seal()
    rows = await database.fetchval("SELECT count(*) FROM gateway.audit_log")
    in_links = await database.fetch(
        "SELECT count(*) AS links FROM gateway.audit_log a LEFT JOIN gateway.audit_chain c"
        " ON a.seq BETWEEN c.first_seq AND c.last_seq GROUP BY a.seq"
    )
    assert {row["links"] for row in in_links} == {1}
    report = await verify(database)
    assert (report.rows, report.unsealed.rows, report.problems) == (rows, 0, ())
    assert report.links > 1
