"""Finds a key by what an operator types: a prefix, a unique abbreviation of one, or a name within a tenant."""

from __future__ import annotations

from gateway.errors import NotFound
from gateway.stores.postgres import Database
from ops.database.policies import find_tenant, key_not_found

_LISTED_MAX = 5


async def find_prefix(database: Database, typed: str, tenant: str | None) -> str:
    """Returns the prefix of the key that `typed` identifies.

    With `tenant`, only its keys are candidates, and `typed` may also be a name in any letter case; of several keys with
    that name, the active one without a successor is meant. Raises NotFound for none or several keys, and for an unknown
    tenant.
    """
    async with database.transaction(readonly=True) as connection:
        tenant_id = None if tenant is None else await find_tenant(connection, tenant)
        rows = await connection.fetch(_CANDIDATES, typed, tenant_id)
    prefixes = [row["prefix"] for row in rows if row["prefix"].startswith(typed)]
    named = [row["prefix"] for row in rows if tenant_id is not None and row["name"].lower() == typed.lower()]
    named = [row["prefix"] for row in rows if row["prefix"] in named and row["live"]] or named
    found = prefixes or named
    if len(found) == 1:
        return str(found[0])
    if found:
        more = ", …" if len(found) > _LISTED_MAX else ""
        raise NotFound(
            f"{typed} identifies {len(found)} keys: {', '.join(found[:_LISTED_MAX])}{more}; type more of one"
        )
    raise (
        key_not_found(typed)
        if tenant is None
        else NotFound(
            f"the tenant {tenant} has no key with the prefix or name {typed}; `list-keys --tenant` shows its keys"
        )
    )


_CANDIDATES = """
SELECT prefix, name, status = 'active' AND replaced_by IS NULL AND (expires_at IS NULL OR expires_at > now()) AS live
FROM gateway.api_keys
WHERE ($2::bigint IS NULL OR tenant_id = $2)
    AND (starts_with(prefix, $1) OR ($2 IS NOT NULL AND lower(name) = lower($1)))
ORDER BY id
"""
