"""Reads all tenants and live keys as a policy file, and applies one in a single transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gateway.errors import Conflict
from gateway.request.ssh_public_key import SshPublicKey, parse_line
from gateway.stores.postgres import Database, PooledConnection
from ops.database.identities import read_identities, remove_other_identities, store_identities
from ops.database.policies import Policy, PolicyChange, policy_from_row, store_policy
from ops.database.policy_difference import Difference, differences
from ops.database.policy_file import KeyEntry, PolicyFile, TenantEntry, parts_of
from ops.database.tenants import NewKey


@dataclass(frozen=True, slots=True)
class StoredPolicies:
    """What is stored: as a file, the ids of tenants (by name in lower case) and of keys and accounts (by prefix).

    A live key is neither revoked nor replaced. `unusable` are the prefixes of the others, with the reason.
    """

    file: PolicyFile
    tenant_ids: Mapping[str, int]
    key_ids: Mapping[str, tuple[int, int]]
    unusable: Mapping[str, str]


async def stored_policies(database: Database) -> StoredPolicies:
    """All tenants, ordered by name, with their live keys, oldest first. Raises StoreUnavailable."""
    async with database.transaction(isolation="repeatable_read", readonly=True) as connection:
        return await _read(connection)


async def apply_file(
    database: Database, file: PolicyFile, shown: Sequence[Difference], new_keys: Mapping[tuple[str, str], NewKey]
) -> None:
    """Makes the database agree with the file, all or nothing.

    `shown` are the differences that the operator has seen, and `new_keys` the keys to create, by tenant and name as in
    the file. Raises StoreUnavailable, and Conflict if the stored policies have changed since `shown` was computed.
    """
    async with database.transaction() as connection:
        await connection.execute(_LOCK)
        stored = await _read(connection)
        found = differences(stored.file, file, stored.unusable)
        if found != list(shown):
            raise Conflict("the policies were changed meanwhile, and nothing was applied; run the command again")
        for each in found:
            # Before any is added, because an identity may move from one key to another.
            if "identities" in each.fields and each.action == "change":
                _, account_id = stored.key_ids[each.prefix or ""]
                await remove_other_identities(connection, account_id, _public_keys(each))
        tenant_ids = dict(stored.tenant_ids)
        for each in found:
            if each.subject == "tenant":
                await _store_tenant(connection, each, tenant_ids)
            else:
                key = new_keys.get((each.tenant, each.name))
                await _store_key(connection, each, tenant_ids[each.tenant.lower()], stored.key_ids, key)


# Commands and a second apply wait; reading keys does not.
_LOCK = """
LOCK TABLE gateway.tenants, gateway.tenant_limits, gateway.api_keys, gateway.key_limits, gateway.identities
    IN SHARE ROW EXCLUSIVE MODE
"""

_TENANTS = """
SELECT t.id, t.name, t.status::text, l.*
FROM gateway.tenants t LEFT JOIN gateway.tenant_limits l ON l.tenant_id = t.id ORDER BY lower(t.name)
"""

_KEYS = """
SELECT k.id, k.account_id, k.tenant_id AS owner_id, k.prefix, k.name, k.scopes, k.log_prompts, k.expires_at,
       k.priority::text, l.*,
       CASE WHEN k.status = 'revoked' THEN 'is revoked' WHEN k.replaced_by IS NOT NULL THEN 'was replaced' END
           AS unusable
FROM gateway.api_keys k LEFT JOIN gateway.key_limits l ON l.key_id = k.account_id ORDER BY k.id
"""

_TENANT_COLUMNS = frozenset({"name", "status"})
_KEY_COLUMNS = ("name", "scopes", "log_prompts", "priority", "expires_at")


async def _read(connection: PooledConnection) -> StoredPolicies:
    tenants, keys = await connection.fetch(_TENANTS), await connection.fetch(_KEYS)
    identities = await read_identities(connection)
    live = [row for row in keys if row["unusable"] is None]
    entries = [
        TenantEntry(
            name=tenant["name"],
            status=tenant["status"],
            weight=tenant["weight"],
            keys=[
                _key_entry(dict(row), identities.get(row["account_id"], ()))
                for row in live
                if row["owner_id"] == tenant["id"]
            ],
            **parts_of(policy_from_row({**tenant, "allowed_models": tenant["allowed_models"] or []})),
        )
        for tenant in tenants
    ]
    return StoredPolicies(
        PolicyFile(version=1, tenants=entries),
        {row["name"].lower(): row["id"] for row in tenants},
        {row["prefix"]: (row["id"], row["account_id"]) for row in live},
        {row["prefix"]: row["unusable"] for row in keys if row["unusable"]},
    )


def _key_entry(row: Mapping[str, Any], identities: Sequence[SshPublicKey]) -> KeyEntry:
    return KeyEntry(
        prefix=row["prefix"],
        name=row["name"],
        scopes=sorted(row["scopes"]),
        log_prompts=row["log_prompts"],
        priority=row["priority"],
        expires_at=row["expires_at"],
        identities=[each.line for each in identities],
        **parts_of(policy_from_row(row)),
    )


async def _store_tenant(connection: PooledConnection, change: Difference, tenant_ids: dict[str, int]) -> None:
    name = change.name.lower()
    if change.action == "create":
        tenant_ids[name] = await connection.fetchval(
            "INSERT INTO gateway.tenants (name, status) VALUES ($1, $2::text::gateway.tenant_status) RETURNING id",
            change.name,
            change.fields["status"][1],
        )
    elif not _TENANT_COLUMNS.isdisjoint(change.fields):
        await connection.execute(
            "UPDATE gateway.tenants SET name = $2, status = coalesce($3::text::gateway.tenant_status, status)"
            " WHERE id = $1",
            tenant_ids[name],
            change.name,
            change.fields.get("status", (None, None))[1],
        )
    await _store_policy(connection, change, tenant_ids[name])


async def _store_key(
    connection: PooledConnection,
    change: Difference,
    tenant_id: int,
    key_ids: Mapping[str, tuple[int, int]],
    key: NewKey | None,
) -> None:
    columns = {column: change.fields[column][1] for column in _KEY_COLUMNS if column in change.fields}
    if change.action == "create":
        assert key is not None  # noqa: S101 (the caller makes one for each key to create)
        names = ("tenant_id", "prefix", "hash", *columns)
        values = ", ".join(f"${number}" for number in range(1, len(names) + 1))
        account_id = await connection.fetchval(
            f"INSERT INTO gateway.api_keys ({', '.join(names)}) VALUES ({values}) RETURNING id",  # noqa: S608 (ours)
            tenant_id,
            key.prefix,
            key.hash,
            *columns.values(),
        )
    else:
        key_id, account_id = key_ids[change.prefix or ""]
        if columns:
            assignments = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, 2))
            await connection.execute(
                f"UPDATE gateway.api_keys SET {assignments} WHERE id = $1",  # noqa: S608 (the names above)
                key_id,
                *columns.values(),
            )
    if "identities" in change.fields:
        await store_identities(connection, account_id, _public_keys(change))
    await _store_policy(connection, change, account_id)


def _public_keys(change: Difference) -> list[SshPublicKey]:
    return [parse_line(line) for line in change.fields["identities"][1]]


async def _store_policy(connection: PooledConnection, change: Difference, subject_id: int) -> None:
    policy = {name: after for name, (_, after) in change.fields.items() if name in Policy.__annotations__}
    if policy or change.action == "create":
        await store_policy(connection, change.subject, subject_id, cast(PolicyChange, policy))
