"""The tenants and API keys that operators manage, and the policies of both. Lookups of names ignore case."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import asyncpg

from gateway.errors import Conflict
from gateway.stores.postgres import Database, PooledConnection
from gateway.values import Priority
from ops.database.policies import (
    Policy,
    PolicyChange,
    PolicySubject,
    find_subject,
    find_tenant,
    key_not_found,
    policy_from_row,
    store_policy,
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A stored tenant. `keys` counts its keys that are neither revoked nor expired."""

    id: int
    name: str
    status: Literal["active", "disabled"]
    created_at: datetime
    keys: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key without its hash. The status `expired` is not stored; it follows from PostgreSQL's clock.

    `replaced_by` is the prefix of the key that rotation made, `reason` the operator's reason for revoking it.
    `identities` are the fingerprints of the public keys that sign in as its account, which a replaced key has none of.
    """

    id: int
    prefix: str
    name: str
    tenant: str
    status: Literal["active", "revoked", "expired"]
    scopes: tuple[str, ...]
    log_prompts: bool
    priority: Priority
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    tenant_disabled: bool
    replaced_by: str | None
    reason: str | None
    identities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored."""

    prefix: str
    hash: str


class TenantRepository:
    """Reads and changes tenants, keys and policies. Each method is one transaction.

    All methods raise StoreUnavailable, NotFound for an unknown tenant or key, and Conflict.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_tenant(self, name: str, policy: PolicyChange) -> Tenant:
        """Creates an active tenant. Raises Conflict when the name exists in any letter case."""
        async with self._database.transaction() as connection:
            tenant_id = await connection.fetchval(_CREATE_TENANT, name)
            if tenant_id is None:
                raise Conflict(f"a tenant named {name} exists already; choose another name")
            await store_policy(connection, "tenant", tenant_id, policy)
            rows = await connection.fetch(_TENANTS, tenant_id)
        return _tenant(rows[0])

    async def list_tenants(self) -> list[Tenant]:
        """Returns all tenants, ordered by name."""
        return [_tenant(row) for row in await self._database.fetch(_TENANTS, None)]

    async def get_tenant(self, name: str) -> Tenant:
        """Returns the tenant with this name, in any letter case."""
        async with self._database.transaction(readonly=True) as connection:
            rows = await connection.fetch(_TENANTS, await find_tenant(connection, name))
        return _tenant(rows[0])

    async def set_tenant_enabled(self, name: str, enabled: bool) -> Tenant:
        """Enables or disables all keys of a tenant. Running authz processes apply the change at once."""
        async with self._database.transaction() as connection:
            tenant_id = await find_tenant(connection, name)
            status = "active" if enabled else "disabled"
            await connection.execute(
                "UPDATE gateway.tenants SET status = $2::text::gateway.tenant_status WHERE id = $1", tenant_id, status
            )
            rows = await connection.fetch(_TENANTS, tenant_id)
        return _tenant(rows[0])

    async def create_key(
        self,
        tenant: str,
        name: str,
        key: NewKey,
        *,
        scopes: Collection[str],
        expires_at: datetime | None,
        log_prompts: bool,
        policy: PolicyChange,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Key:
        """Creates an active key. Raises Conflict when the tenant has an active key with this name."""
        async with self._database.transaction() as connection:
            tenant_id = await find_tenant(connection, tenant)
            if await connection.fetchval(_LIVE_KEY_OF_NAME, tenant_id, name):
                raise Conflict(f"the tenant {tenant} has a key named {name} already; rotate or revoke that one")
            key_id = await connection.fetchval(
                _CREATE_KEY, tenant_id, name, key.prefix, key.hash, sorted(scopes), log_prompts, expires_at, priority
            )
            await store_policy(connection, "key", key_id, policy)
            rows = await connection.fetch(_KEYS, None, key_id)
        return _key(rows[0])

    async def list_keys(self, tenant: str | None) -> list[Key]:
        """Returns the keys of one tenant, or of all tenants, ordered by tenant and age, oldest first."""
        async with self._database.transaction(readonly=True) as connection:
            tenant_id = None if tenant is None else await find_tenant(connection, tenant)
            rows = await connection.fetch(_KEYS, tenant_id, None)
        return [_key(row) for row in rows]

    async def revoke_key(self, prefix: str, reason: str) -> bool:
        """Revokes the key permanently; every authz denies it within a second. False if it was revoked already."""
        async with self._database.transaction() as connection:
            key = await _locked_key(connection, prefix)
            if key["status"] == "revoked":
                return False
            await _revoke(connection, key["id"], prefix, reason)
        return True

    async def rotate_key(self, prefix: str, key: NewKey, grace: timedelta) -> tuple[Key, Key]:
        """Creates a successor of the same account, with the name, scopes and expiry of the old key.

        Limits, budgets and usage are those of the account, so both keys draw on them together while the old key stays
        valid, which it does for `grace`; without a grace period it is revoked at once. Returns the new key and the old
        key. Raises Conflict when the old key is revoked, expired or replaced already.
        """
        async with self._database.transaction() as connection:
            old = await _locked_key(connection, prefix)
            if not old["live"]:
                raise Conflict(f"the key {prefix} is revoked, expired or replaced already; create a new one")
            key_id = await connection.fetchval(_NEXT_KEY_ID)
            await connection.execute(_REPLACE, old["id"], key_id, grace)
            await connection.execute(_SUCCESSOR, old["id"], key_id, key.prefix, key.hash, old["expires_at"])
            if not grace:
                await _revoke(connection, old["id"], prefix, "rotated")
            new_rows = await connection.fetch(_KEYS, None, key_id)
            old_rows = await connection.fetch(_KEYS, None, old["id"])
        return _key(new_rows[0]), _key(old_rows[0])

    async def change_policy(self, subject: PolicySubject, change: PolicyChange) -> Policy:
        """Changes limits, budgets or models, and returns the policy as stored afterwards."""
        async with self._database.transaction() as connection:
            subject_id = await find_subject(connection, subject)
            return await store_policy(connection, subject.kind, subject_id, change)


_CREATE_TENANT = "INSERT INTO gateway.tenants (name) VALUES ($1) ON CONFLICT (lower(name)) DO NOTHING RETURNING id"

_TENANTS = """
SELECT t.id, t.name, t.status::text, t.created_at, l.*,
       (SELECT count(*) FROM gateway.api_keys k WHERE k.tenant_id = t.id AND k.status = 'active'
           AND (k.expires_at IS NULL OR k.expires_at > now())) AS keys
FROM gateway.tenants t JOIN gateway.tenant_limits l ON l.tenant_id = t.id
WHERE $1::bigint IS NULL OR t.id = $1
ORDER BY lower(t.name)
"""

_LIVE_KEY_OF_NAME = """
SELECT true FROM gateway.api_keys
WHERE tenant_id = $1 AND lower(name) = lower($2) AND status = 'active' AND replaced_by IS NULL
"""

_CREATE_KEY = """
INSERT INTO gateway.api_keys (tenant_id, name, prefix, hash, scopes, log_prompts, expires_at, priority)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::gateway.key_priority) RETURNING id
"""

_KEYS = """
SELECT k.id, k.prefix, k.name, t.name AS tenant, k.scopes, k.log_prompts, k.priority::text, k.created_at, k.expires_at,
       k.last_used_at,
       CASE WHEN k.status = 'active' AND k.expires_at <= now() THEN 'expired' ELSE k.status::text END AS status,
       t.status = 'disabled' AS tenant_disabled,
       (SELECT prefix FROM gateway.api_keys successor WHERE successor.id = k.replaced_by) AS replaced_by,
       (SELECT nullif(reason, '') FROM gateway.revocations WHERE key_id = k.id ORDER BY id LIMIT 1) AS reason,
       ARRAY(SELECT fingerprint FROM gateway.identities i
           WHERE i.account_id = k.account_id AND k.replaced_by IS NULL ORDER BY i.id) AS identities
FROM gateway.api_keys k JOIN gateway.tenants t ON t.id = k.tenant_id
WHERE ($1::bigint IS NULL OR k.tenant_id = $1) AND ($2::bigint IS NULL OR k.id = $2)
ORDER BY lower(t.name), k.id
"""

_LOCK_KEY = """
SELECT id, status::text, expires_at,
       status = 'active' AND replaced_by IS NULL AND (expires_at IS NULL OR expires_at > now()) AS live
FROM gateway.api_keys WHERE prefix = $1 FOR UPDATE
"""

_NEXT_KEY_ID = "SELECT nextval(pg_get_serial_sequence('gateway.api_keys', 'id'))"

# The name is unique among active keys without a successor, so the old key is marked before its successor is inserted.
_REPLACE = "UPDATE gateway.api_keys SET replaced_by = $2, expires_at = least(expires_at, now() + $3) WHERE id = $1"

_SUCCESSOR = """
INSERT INTO gateway.api_keys (id, tenant_id, account_id, name, prefix, hash, scopes, log_prompts, priority, expires_at)
SELECT $2, tenant_id, account_id, name, $3, $4, scopes, log_prompts, priority, $5 FROM gateway.api_keys WHERE id = $1
"""


async def _locked_key(connection: PooledConnection, prefix: str) -> asyncpg.Record:
    row = await connection.fetchrow(_LOCK_KEY, prefix)
    if row is None:
        raise key_not_found(prefix)
    return row


async def _revoke(connection: PooledConnection, key_id: int, prefix: str, reason: str) -> None:
    # A trigger of this table sets the key's status and notifies every authz.
    await connection.execute(
        "INSERT INTO gateway.revocations (key_id, prefix, reason) VALUES ($1, $2, $3)", key_id, prefix, reason
    )


def _tenant(row: asyncpg.Record) -> Tenant:
    return Tenant(row["id"], row["name"], row["status"], row["created_at"], row["keys"], policy_from_row(row))


def _key(row: asyncpg.Record) -> Key:
    return Key(
        id=row["id"],
        prefix=row["prefix"],
        name=row["name"],
        tenant=row["tenant"],
        status=row["status"],
        scopes=tuple(row["scopes"]),
        log_prompts=row["log_prompts"],
        priority=Priority(row["priority"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        tenant_disabled=row["tenant_disabled"],
        replaced_by=row["replaced_by"],
        reason=row["reason"],
        identities=tuple(row["identities"]),
    )
