from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.migrate import MigrationFailed, downgrade, upgrade
from tests.row_builders import entry

TABLES = {
    "tenants", "tenant_limits", "api_keys", "key_limits", "budget_usage", "revocations", "audit_log", "prompt_log",
    "audit_chain",
}  # fmt: skip


@pytest.fixture
def empty(empty_database_url: str) -> Settings:
    return Settings.model_validate({"database_url": empty_database_url})


async def _objects(settings: Settings) -> set[str]:
    """Tables (without partitions), types and functions of the schema."""
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


async def test_an_empty_database_gets_every_table_and_can_record_at_once(empty: Settings) -> None:
    assert await upgrade(empty) == "0002"
    assert TABLES | {"alembic_version"} <= await _objects(empty)
    database = Database(empty)
    await Ledger(database).append([entry("a")])
    await database.close()


async def test_migrating_again_changes_nothing_and_keeps_the_rows(empty: Settings) -> None:
    await upgrade(empty)
    database = Database(empty)
    await Ledger(database).append([entry("a")])
    before = await _objects(empty)
    assert await upgrade(empty) == "0002"
    assert await _objects(empty) == before
    assert await database.fetchval("SELECT count(*) FROM gateway.audit_log") == 1
    await database.close()


async def test_several_that_start_at_once_all_find_the_schema(empty: Settings) -> None:
    assert await asyncio.gather(*(upgrade(empty) for _ in range(5))) == ["0002"] * 5


async def test_going_down_leaves_nothing_but_the_version_and_up_works_again(empty: Settings) -> None:
    await upgrade(empty)
    assert await downgrade(empty, "base") == "base"
    assert await _objects(empty) == {"alembic_version"}
    assert await upgrade(empty) == "0002"


async def test_a_migration_that_fails_leaves_the_database_as_it_was(empty: Settings) -> None:
    database = Database(empty)
    await database.execute("CREATE SCHEMA gateway")
    await database.execute("CREATE TABLE gateway.prompt_log (mine text)")
    with pytest.raises(StoreUnavailable, match="DuplicateTable"):
        await upgrade(empty)
    assert await _objects(empty) == {"prompt_log"}
    await database.close()


async def test_an_unknown_revision_is_one_sentence(empty: Settings) -> None:
    with pytest.raises(MigrationFailed, match="changed nothing"):
        await upgrade(empty, "9999")


async def test_postgresql_that_is_away_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await upgrade(Settings.model_validate({"database_url": "postgresql://u:p@127.0.0.1:1/db"}))


async def test_whoever_migrates_waits_for_the_one_that_migrates_already(empty: Settings) -> None:
    other = await asyncpg.connect(empty.database_url.get_secret_value())
    lock = other.transaction()
    await lock.start()
    await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('gateway.migrate', 0))")
    waiting = asyncio.create_task(upgrade(empty))
    waiters = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while await other.fetchval(waiters) == 0:
        assert not waiting.done()
    await lock.rollback()
    await other.close()
    assert await waiting == "0002"
