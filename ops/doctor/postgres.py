"""Checks that PostgreSQL is reachable and new enough, has the newest schema, and holds an active key."""

from __future__ import annotations

from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.revisions import current_revision, head_revision
from ops.database.tenants import TenantRepository
from ops.doctor.check import Check, failed, ok, warning

OLDEST_MAJOR = 16
_NAME = "postgresql"


async def check(settings: Settings) -> list[Check]:
    """Checks the server, the schema and the keys."""
    database = Database(settings)
    try:
        return await _check(database)
    finally:
        await database.close()


async def _check(database: Database) -> list[Check]:
    try:
        number = int(await database.fetchval("SHOW server_version_num"))
    except StoreUnavailable as error:
        return [failed(_NAME, str(error), "start PostgreSQL, or correct DATABASE_URL")]
    version = f"{number // 10_000}.{number % 10_000}"
    checks = [
        ok(_NAME, f"version {version}")
        if number >= OLDEST_MAJOR * 10_000
        else warning(_NAME, f"version {version} is older than {OLDEST_MAJOR}", f"upgrade it to {OLDEST_MAJOR} or newer")
    ]
    try:
        checks.append(await _check_schema(database))
        checks.append(await _check_keys(database))
    except StoreUnavailable as error:
        checks.append(failed("schema", str(error), "neuronetz-gateway migrate"))
    return checks


async def _check_schema(database: Database) -> Check:
    current, head = await current_revision(database), head_revision()
    if current == head:
        return ok("schema", f"revision {current}, the newest")
    return failed("schema", f"revision {current}; the newest is {head}", "neuronetz-gateway migrate")


async def _check_keys(database: Database) -> Check:
    active = sum(key.status == "active" for key in await TenantRepository(database).list_keys(None))
    if active:
        return ok("keys", f"{active} active")
    remedy = "neuronetz-gateway create-tenant --name NAME --allow-all-models, then create-key --tenant NAME --name KEY"
    return warning("keys", "there is no active key, so every request is denied", remedy)
