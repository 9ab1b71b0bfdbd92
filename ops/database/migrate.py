"""Migrates the database schema with Alembic, which is configured here so that an installed wheel can migrate too.

A migration is one transaction under an advisory lock. Several services may start it at the same time, and a failed
migration leaves no changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from alembic import command, op
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.errors import GatewayError
from gateway.settings import Settings
from gateway.stores.postgres import Database, translated_errors
from ops.database import service_role
from ops.database.retention import AUDIT_MONTHS_AHEAD
from ops.database.revisions import CURRENT_SQL, MIGRATIONS, VERSION_SCHEMA, head_revision

TIMEOUT_S = 300.0

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('gateway.migrate', 0))")


class MigrationFailed(GatewayError):
    """A revision could not be applied. The database is unchanged."""


async def upgrade(settings: Settings, revision: str = "head") -> str:
    """Migrates up to `revision` and creates the audit partitions of the next AUDIT_MONTHS_AHEAD months.

    Returns the resulting revision. At the newest revision the role of DATABASE_SERVICE_ROLE gets its privileges. Safe
    to run repeatedly and concurrently. Raises StoreUnavailable, MigrationFailed or ServiceRoleRefused.
    """
    role, password = settings.database_service_role, settings.database_service_password

    def steps(connection: Connection, config: Config) -> None:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA}"))
        command.upgrade(config, revision)
        if _current(connection) is not None:
            connection.execute(text(f"SELECT gateway.ensure_audit_partitions({AUDIT_MONTHS_AHEAD})"))
        if role is not None and _current(connection) == head_revision():
            service_role.provide(connection, role, password.get_secret_value() if password else None)

    return await _run(settings, steps)


async def downgrade(settings: Settings, revision: str) -> str:
    """Migrates down to `revision`, where `base` is the empty schema. Rows of dropped tables are lost.

    Returns the resulting revision. Raises StoreUnavailable or MigrationFailed.
    """
    return await _run(settings, lambda _, config: command.downgrade(config, revision))


def run_sql(name: str) -> None:
    """Executes an SQL file of `migrations/versions` in the transaction of the migration. Called by revisions."""
    script = (MIGRATIONS / "versions" / name).read_text(encoding="utf-8")
    # SQLAlchemy prepares statements, which hold a single command, so the driver executes the script directly.
    driver = op.get_bind().connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(script))  # type: ignore[union-attr]


async def _run(settings: Settings, steps: Callable[[Connection, Config], None]) -> str:
    database = Database(settings, command_timeout_s=TIMEOUT_S)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=database.connect)
    try:
        with translated_errors():
            async with asyncio.timeout(TIMEOUT_S), engine.begin() as connection:
                await connection.execute(_LOCK)
                return await connection.run_sync(_migrate, steps)
    except (DBAPIError, CommandError) as error:
        raise MigrationFailed(f"the migration failed and changed nothing: {_reason(error)}") from error
    finally:
        await engine.dispose()


def _migrate(connection: Connection, steps: Callable[[Connection, Config], None]) -> str:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    steps(connection, config)
    return _current(connection) or "base"


def _current(connection: Connection) -> str | None:
    revision = connection.execute(text(CURRENT_SQL)).scalar_one_or_none()
    return None if revision is None else str(revision)


def _reason(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().splitlines()[0]
