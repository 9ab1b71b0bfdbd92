"""The recorded changes of tenants, keys and policies, and the policies of the past that follow from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg

from gateway.errors import NotFound
from gateway.stores.postgres import Database, PooledConnection
from gateway.values import Refusal
from ops.database.policies import Policy, policy_from_row

# Ids of the database, which mean nothing to an operator.
_INTERNAL = frozenset({"id", "tenant_id", "key_id", "account_id", "replaced_by"})


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """One change of a row. `before` and `after` hold the columns that differ.

    `command`, `os_user` and `host` are what the client stated, and None for a change that no command made.
    `database_role` and `client_addr` are what PostgreSQL knows of it. `action` is insert, update, delete or truncate,
    or baseline for a row that existed before changes were recorded.
    """

    ts: datetime
    command: str | None
    os_user: str | None
    host: str | None
    database_role: str
    client_addr: str | None
    action: str
    subject: Literal["tenant", "key"]
    tenant: str | None
    prefix: str | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyAt:
    """A key and its tenant as they were stored at `time`. `refusal` is None if the key was usable then."""

    time: datetime
    prefix: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    log_prompts: bool
    expires_at: datetime | None
    refusal: Refusal | None
    own: Policy
    of_tenant: Policy


class PolicyChanges:
    """Read-only queries. All methods raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, since: datetime | None, limit: int) -> list[RecordedChange]:
        """The newest `limit` changes since `since` (aware; None for all), oldest first."""
        rows = await self._database.fetch(_NEWEST, since, limit)
        return [_change(row) for row in reversed(rows)]

    async def policy_at(self, prefix: str, time: datetime) -> PolicyAt:
        """The policy of a key at `time` (aware). Raises NotFound for a key that did not exist then."""
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            key_id = await connection.fetchval(_KEY_ID, prefix)
            key = await _row_at(connection, "api_keys", key_id, time)
            if key is None:
                since = await connection.fetchval("SELECT min(ts) FROM gateway.policy_changes")
                raise NotFound(_not_known(prefix, time, since))
            tenant = await _row_at(connection, "tenants", key["tenant_id"], time) or {}
            own = await _row_at(connection, "key_limits", key["account_id"], time)
            of_tenant = await _row_at(connection, "tenant_limits", key["tenant_id"], time)
        expires_at = datetime.fromisoformat(key["expires_at"]) if key["expires_at"] else None
        return PolicyAt(
            time=time,
            prefix=prefix,
            name=key["name"],
            tenant=tenant.get("name", ""),
            scopes=tuple(key["scopes"]),
            log_prompts=key["log_prompts"],
            expires_at=expires_at,
            refusal=_refusal(key["status"], expires_at, tenant.get("status"), time),
            own=_policy(own),
            of_tenant=_policy(of_tenant),
        )


_NEWEST = """
SELECT ts, command, os_user, host, database_role, client_addr::text, action, relation, tenant, key_prefix, before, after
FROM gateway.policy_changes WHERE $1::timestamptz IS NULL OR ts >= $1 ORDER BY seq DESC LIMIT $2
"""

_KEY_ID = "SELECT row_id FROM gateway.policy_changes WHERE relation = 'api_keys' AND key_prefix = $1 LIMIT 1"

_ROW_AT = """
SELECT after FROM gateway.policy_changes
WHERE relation = $1 AND (row_id = $2 OR action = 'truncate') AND ts <= $3 ORDER BY seq DESC LIMIT 1
"""


async def _row_at(
    connection: PooledConnection, relation: str, row_id: int | None, time: datetime
) -> dict[str, Any] | None:
    """The columns of a row at that time, None if it did not exist."""
    after = await connection.fetchval(_ROW_AT, relation, row_id, time)
    return None if after is None else dict(json.loads(after))


def _policy(row: Mapping[str, Any] | None) -> Policy:
    """The policy of a recorded row, which lacks the columns of later releases."""
    return policy_from_row({**dict.fromkeys(Policy.__annotations__), **(row or {})})


def _refusal(status: str, expires_at: datetime | None, tenant_status: str | None, time: datetime) -> Refusal | None:
    """As `authz.keys.repository.StoredKey.refusal` decides."""
    if status == "revoked":
        return Refusal.REVOKED
    if expires_at is not None and expires_at <= time:
        return Refusal.EXPIRED
    return Refusal.TENANT_DISABLED if tenant_status != "active" else None


def _not_known(prefix: str, time: datetime, since: datetime | None) -> str:
    recorded = f"changes are recorded since {since:%Y-%m-%d %H:%M:%SZ}" if since else "no changes are recorded"
    return f"there was no key with the prefix {prefix} at {time:%Y-%m-%d %H:%M:%SZ}; {recorded}"


def _change(row: asyncpg.Record) -> RecordedChange:
    before, after = (dict(json.loads(row[name] or "{}")) for name in ("before", "after"))
    differing = [
        column for column in {**before, **after} if before.get(column) != after.get(column) and column not in _INTERNAL
    ]
    return RecordedChange(
        ts=row["ts"],
        command=row["command"],
        os_user=row["os_user"],
        host=row["host"],
        database_role=row["database_role"],
        client_addr=row["client_addr"],
        action=row["action"],
        subject="tenant" if row["relation"].startswith("tenant") else "key",
        tenant=row["tenant"],
        prefix=row["key_prefix"],
        before={column: before[column] for column in differing if before.get(column) is not None},
        after={column: after[column] for column in differing if after.get(column) is not None},
    )
