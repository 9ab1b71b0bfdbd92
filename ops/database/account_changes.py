"""Changes of existing tenants and keys: their names, and what the creation of a key decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import Conflict
from gateway.stores.postgres import Database
from ops.database.policies import find_tenant, key_not_found


async def rename_tenant(database: Database, name: str, new_name: str) -> None:
    """Renames a tenant. Its audit rows retain the name that it had. Raises NotFound, and Conflict for a taken name."""
    async with database.transaction() as connection:
        tenant_id = await find_tenant(connection, name)
        if await connection.fetchval(_OTHER_TENANT, new_name, tenant_id):
            raise Conflict(f"a tenant named {new_name} exists already; choose another name")
        await connection.execute("UPDATE gateway.tenants SET name = $2 WHERE id = $1", tenant_id, new_name)


async def delete_tenant(database: Database, name: str) -> int:
    """Deletes a disabled tenant with its keys and policies, and returns how many keys it had. Its audit rows stay.

    Raises NotFound, and Conflict for a tenant that is not disabled.
    """
    async with database.transaction() as connection:
        tenant_id = await find_tenant(connection, name)
        status = await connection.fetchval(_LOCK_TENANT, tenant_id)
        if status != "disabled":
            raise Conflict(f"the tenant {name} is {status}; disable it first: disable-tenant --name {name}")
        keys = await connection.fetchval("SELECT count(*) FROM gateway.api_keys WHERE tenant_id = $1", tenant_id)
        await connection.execute("DELETE FROM gateway.tenants WHERE id = $1", tenant_id)
    return int(keys)


async def change_key(database: Database, prefix: str, change: Mapping[str, Any]) -> None:
    """Changes columns of a key: `name`, `scopes`, `expires_at`, `log_prompts` and `priority`.

    Raises NotFound, and Conflict for a revoked or replaced key, and for a name that another key of the tenant has.
    """
    async with database.transaction() as connection:
        key = await connection.fetchrow(_LOCK_KEY, prefix)
        if key is None:
            raise key_not_found(prefix)
        if not key["live"]:
            raise Conflict(f"the key {prefix} is revoked or replaced; change its successor, or create a new key")
        name = change.get("name")
        if name is not None and await connection.fetchval(_OTHER_KEY, name, key["tenant_id"], key["id"]):
            raise Conflict(f"its tenant has an active key named {name} already; choose another name")
        columns = [column for column in _COLUMNS if column in change]
        assignments = ", ".join(f"{column} = {_COLUMNS[column].format(n)}" for n, column in enumerate(columns, 2))
        await connection.execute(
            f"UPDATE gateway.api_keys SET {assignments} WHERE id = $1",  # noqa: S608 (the names above)
            key["id"],
            *(change[column] for column in columns),
        )


# The columns of a key that may change, with the expression that a parameter has for each.
_COLUMNS = {
    "name": "${}",
    "scopes": "${}",
    "expires_at": "${}",
    "log_prompts": "${}",
    "priority": "${}::text::gateway.key_priority",
}

_OTHER_TENANT = "SELECT true FROM gateway.tenants WHERE lower(name) = lower($1) AND id <> $2"

_LOCK_TENANT = "SELECT status::text FROM gateway.tenants WHERE id = $1 FOR UPDATE"

_LOCK_KEY = """
SELECT id, tenant_id, status = 'active' AND replaced_by IS NULL AS live
FROM gateway.api_keys WHERE prefix = $1 FOR UPDATE
"""

_OTHER_KEY = """
SELECT true FROM gateway.api_keys
WHERE lower(name) = lower($1) AND tenant_id = $2 AND id <> $3 AND status = 'active' AND replaced_by IS NULL
"""
