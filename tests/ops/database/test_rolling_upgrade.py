"""Every migration is compatible with the previous version, which still runs during a rolling upgrade."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import migrations
from gateway.settings import Settings
from ops.database.migrate import upgrade
from tests.ops.database.schema_diff import contractions, read_schema

# Revision -> what it removes because no supported version uses it. Only for the second half of expand and contract.
CONTRACTS: dict[str, set[str]] = {
    # Only triggers wrote the chain and `link`, so services of the previous version insert rows and prune unchanged. Its
    # verify-audit fails with a sentence.
    "0004": {
        "audit_chain.chained_at was dropped",
        "audit_chain.first_seq requires a value",
        "audit_chain.last_seq requires a value",
        "audit_chain.rows_total requires a value",
        "audit_chain.sealed_at requires a value",
        "audit_log.link was dropped",
        "function gateway.audit_digest(bigint) was dropped",
        "function gateway.begin_audit_link() was dropped",
        "function gateway.end_audit_link() was dropped",
        "function gateway.join_audit_link() was dropped",
    },
}


def revisions() -> list[str]:
    """Returns every revision, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


@pytest.fixture
def settings(empty_database_url: str) -> Settings:
    return Settings.model_validate({"database_url": empty_database_url, "database_timeout_s": 5})


@pytest.fixture
async def connection(empty_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


async def test_each_revision_only_adds_to_the_previous_one(settings: Settings, connection: asyncpg.Connection) -> None:
    first, *_ = revisions()
    assert await upgrade(settings, first) == first
    for before, after in pairwise(revisions()):
        old = await read_schema(connection)
        await upgrade(settings, after)
        assert contractions(old, await read_schema(connection)) == CONTRACTS.get(after, set()), f"{before} → {after}"
    assert (await read_schema(connection)).columns


@pytest.mark.parametrize(
    "step",
    [
        "ALTER TABLE gateway.tenants ADD COLUMN note text",
        "ALTER TABLE gateway.tenants ADD COLUMN note text NOT NULL DEFAULT ''",
        "ALTER TABLE gateway.tenants ADD COLUMN note text CHECK (note <> '')",
        "CREATE TABLE gateway.notes (note text NOT NULL)",
        "ALTER TYPE gateway.tenant_status ADD VALUE 'paused'",
    ],
)
async def test_a_step_that_only_adds_has_no_contractions(
    fresh_database_url: str, connection: asyncpg.Connection, step: str
) -> None:
    before = await read_schema(connection)
    await connection.execute(step)
    after = await read_schema(connection)
    assert after != before
    assert contractions(before, after) == set()


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("ALTER TABLE gateway.tenants ADD COLUMN note text NOT NULL", "tenants.note requires a value"),
        ("ALTER TABLE gateway.tenants ALTER COLUMN status DROP DEFAULT", "tenants.status requires a value"),
        ("ALTER TABLE gateway.tenants RENAME COLUMN created_at TO made_at", "tenants.created_at was dropped"),
        (
            "ALTER TABLE gateway.tenants ALTER created_at TYPE date",
            "tenants.created_at changed from timestamp with time zone to date",
        ),
        (
            "ALTER TABLE gateway.tenants ADD CONSTRAINT short CHECK (name < 'm')",
            "tenants has the new constraint short",
        ),
        ("DROP TABLE gateway.prompt_log", "prompt_log.request_id was dropped"),
        (
            "DROP FUNCTION gateway.ensure_audit_partitions",
            "function gateway.ensure_audit_partitions(integer) was dropped",
        ),
    ],
)
async def test_a_step_that_breaks_the_previous_version_is_found(
    fresh_database_url: str, connection: asyncpg.Connection, step: str, found: str
) -> None:
    before = await read_schema(connection)
    await connection.execute(step)
    assert any(each.startswith(found) for each in contractions(before, await read_schema(connection)))
