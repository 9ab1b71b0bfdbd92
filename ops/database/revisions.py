"""The revision of the schema that this version contains, and the one of a database, without Alembic.

Alembic and SQLAlchemy take half a second to import, so only a migration imports them.
"""

from __future__ import annotations

from pathlib import Path

import migrations
from gateway.stores.postgres import Database

VERSION_SCHEMA = "gateway"
MIGRATIONS = Path(migrations.__file__).parent
CURRENT_SQL = f"SELECT version_num FROM {VERSION_SCHEMA}.alembic_version"  # noqa: S608 (a constant)


def head_revision() -> str:
    """Returns the newest revision that this version of the gateway contains. Files are named by their revision."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


async def current_revision(database: Database) -> str | None:
    """Returns the revision of the database. Raises StoreUnavailable, also for a database without the schema."""
    revision = await database.fetchval(CURRENT_SQL)
    return None if revision is None else str(revision)
