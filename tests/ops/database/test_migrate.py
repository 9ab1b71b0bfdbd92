from __future__ import annotations

import asyncio

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.audit_chain import AuditChain
from ops.database.audit_seal import AuditSealer
from ops.database.migrate import MigrationFailed, downgrade, upgrade
from ops.database.revisions import MIGRATIONS, head_revision
from tests.row_builders import HASH, NOON, entry

TABLES = {
    "tenants", "tenant_limits", "api_keys", "key_limits", "budget_usage", "revocations", "audit_log", "prompt_log",
    "audit_chain", "ledger_rejects", "identities",
}  # fmt: skip


@pytest.fixture
def empty(empty_database_url: str) -> Settings:
    return Settings.model_validate({"database_url": empty_database_url})


async def _objects(settings: Settings) -> set[str]:
    """Returns the tables (without partitions), enum types and functions of the schema."""
    database = Database(settings)
    rows = await database.fetch(
        """
        SELECT relname AS name FROM pg_class WHERE relnamespace = 'gateway'::regnamespace
            AND relkind IN ('r', 'p') AND NOT relispartition
        UNION SELECT typname FROM pg_type WHERE typnamespace = 'gateway'::regnamespace AND typtype = 'e'
        UNION SELECT proname FROM pg_proc WHERE pronamespace = 'gateway'::regnamespace
        """
    )
    await database.close()
    return {row["name"] for row in rows}


async def test_an_empty_database_gets_every_table_and_accepts_rows(empty: Settings) -> None:
    assert await upgrade(empty) == "0011"
    assert TABLES | {"alembic_version"} <= await _objects(empty)
    database = Database(empty)
    await Ledger(database).append([entry("a")])
    await database.close()


def test_the_newest_revision_is_known_without_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert head_revision() == ScriptDirectory.from_config(config).get_current_head()


async def test_a_second_migration_changes_nothing_and_keeps_the_rows(empty: Settings) -> None:
    await upgrade(empty)
    database = Database(empty)
    await Ledger(database).append([entry("a")])
    before = await _objects(empty)
    assert await upgrade(empty) == "0011"
    assert await _objects(empty) == before
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 1
    await database.close()


async def test_concurrent_migrations_all_reach_the_newest_revision(empty: Settings) -> None:
    assert await asyncio.gather(*(upgrade(empty) for _ in range(5))) == ["0011"] * 5


async def test_a_downgrade_leaves_only_the_version_table_and_can_be_upgraded(empty: Settings) -> None:
    await upgrade(empty)
    assert await downgrade(empty, "base") == "base"
    assert await _objects(empty) == {"alembic_version"}
    assert await upgrade(empty) == "0011"


async def insert_rows(database: Database, *request_ids: str) -> None:
    """Inserts audit rows as a release does that knows only the columns of the first revision."""
    for request_id in request_ids:
        await database.execute(
            "INSERT INTO gateway.audit_log (request_id, ts, client_ip, user_agent, method, path, stream, status,"
            " outcome, input_tokens, output_tokens, usage_source, reserved_tokens, request_bytes, response_bytes)"
            " VALUES ($1, $2, '192.0.2.1', '', 'POST', '/api/chat', false, 403, 'denied', 0, 0, 'none', 0, 0, 0)",
            request_id,
            NOON,
        )


async def test_rows_from_before_the_sealing_are_sealed_after_it_and_stay_on_the_way_down(empty: Settings) -> None:
    await upgrade(empty, "0003")
    database = Database(empty)
    await insert_rows(database, "a", "b")
    await upgrade(empty)
    await Ledger(database).append([entry("b"), entry("c")])
    assert await AuditSealer(database).seal() == 3
    report = await AuditChain(database).verify(NOON)
    assert (report.rows, report.unsealed.rows, report.problems) == (3, 0, ())
    await downgrade(empty, "0003")
    await insert_rows(database, "d")
    assert await database.fetchval("SELECT array_agg(link ORDER BY request_id) FROM gateway.audit_log") == [
        None, None, None, 1,
    ]  # fmt: skip
    await database.close()


async def test_keys_that_were_rotated_before_accounts_draw_on_the_last_of_them(empty: Settings) -> None:
    await upgrade(empty, "0004")
    database = Database(empty)
    await database.execute("INSERT INTO gateway.tenants (name) VALUES ('acme')")
    insert = "INSERT INTO gateway.api_keys (tenant_id, name, prefix, hash, replaced_by) VALUES (1, $1, $2, $3, $4)"
    async with database.transaction() as connection:
        for number, replaced_by in ((1, 3), (2, None), (3, 4), (4, None)):
            await connection.execute(insert, f"k{number}", f"nz_00000000{number}", HASH, replaced_by)
            limits = "INSERT INTO gateway.key_limits (key_id, rpm) VALUES ($1::bigint, $1::bigint)"
            await connection.execute(limits, number)
    await upgrade(empty)
    accounts = "SELECT array_agg(account_id ORDER BY id) FROM gateway.api_keys"
    assert await database.fetchval(accounts) == [4, 2, 4, 4]
    # The previous version inserts a key without an account.
    await database.execute(insert, "k5", "nz_000000005", HASH, None)
    assert await database.fetchval(accounts) == [4, 2, 4, 4, 5]
    await downgrade(empty, "0004")
    limits = "SELECT array_agg(rpm ORDER BY key_id) FROM gateway.key_limits"
    assert await database.fetchval(limits) == [4, 2, 4, 4]
    await database.close()


async def test_a_failed_migration_changes_nothing(empty: Settings) -> None:
    database = Database(empty)
    await database.execute("CREATE SCHEMA gateway")
    await database.execute("CREATE TABLE gateway.prompt_log (mine text)")
    with pytest.raises(StoreUnavailable, match="DuplicateTable"):
        await upgrade(empty)
    assert await _objects(empty) == {"prompt_log"}
    await database.close()


async def test_an_unknown_revision_is_a_migration_failure(empty: Settings) -> None:
    with pytest.raises(MigrationFailed, match="changed nothing"):
        await upgrade(empty, "9999")


async def test_an_unreachable_postgresql_is_store_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await upgrade(Settings.model_validate({"database_url": "postgresql://u:p@127.0.0.1:1/db"}))


async def test_a_migration_waits_for_the_lock_of_another_one(empty: Settings) -> None:
    other = await asyncpg.connect(empty.database_url.get_secret_value())
    lock = other.transaction()
    await lock.start()
    await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('gateway.migrate', 0))")
    waiting = asyncio.create_task(upgrade(empty))
    waiters = """SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"""
    while await other.fetchval(waiters) == 0:
        assert not waiting.done()
    await lock.rollback()
    await other.close()
    assert await waiting == "0011"
