"""The stored policy of a tenant or a key, and the lookup of its subject by the name that operators use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypedDict

import asyncpg

from gateway.errors import NotFound
from gateway.stores.postgres import PooledConnection


@dataclass(frozen=True, slots=True)
class PolicySubject:
    """The owner of a policy: a tenant by its name, or a key by its prefix."""

    kind: Literal["tenant", "key"]
    name: str


class PolicyChange(TypedDict, total=False):
    """The fields of a policy to change; absent fields keep their value.

    None means inherited, and for a budget no limit. `max_output` is tokens and `max_body` bytes of one request.
    `weight` is a tenant's share of the slots, and None is 1; keys have none. Rates are per minute, budgets are tokens
    (input plus output) per UTC day, UTC month and in total. Model names are canonical.
    """

    rpm: int | None
    tpm: int | None
    concurrent: int | None
    max_output: int | None
    max_body: int | None
    weight: int | None
    budget_day: int | None
    budget_month: int | None
    budget_total: int | None
    allow_all_models: bool | None
    allowed_models: list[str] | None


class Policy(PolicyChange, total=True):
    """A complete stored policy."""


def allow_only(models: Collection[str]) -> PolicyChange:
    """The change that allows exactly these models (canonical names)."""
    return {"allowed_models": sorted(set(models)), "allow_all_models": False}


async def find_subject(connection: PooledConnection, subject: PolicySubject) -> int:
    """Returns the database id of a tenant, or of the account of a key. Raises NotFound."""
    if subject.kind == "tenant":
        return await find_tenant(connection, subject.name)
    account_id = await connection.fetchval("SELECT account_id FROM gateway.api_keys WHERE prefix = $1", subject.name)
    if account_id is None:
        raise key_not_found(subject.name)
    return int(account_id)


def key_not_found(prefix: str) -> NotFound:
    """The error for a prefix that belongs to no key."""
    return NotFound(f"there is no key with the prefix {prefix}; `list-keys` shows the existing keys")


async def find_tenant(connection: PooledConnection, name: str) -> int:
    """Returns the database id of a tenant. Raises NotFound, which suggests a tenant with a similar name."""
    tenant_id = await connection.fetchval("SELECT id FROM gateway.tenants WHERE lower(name) = lower($1)", name)
    if tenant_id is not None:
        return int(tenant_id)
    names = {row["name"].lower(): row["name"] for row in await connection.fetch("SELECT name FROM gateway.tenants")}
    near = get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {names[near[0]]}?" if near else "`list-tenants` shows the existing tenants"
    raise NotFound(f"there is no tenant named {name}; {hint}")


async def store_policy(
    connection: PooledConnection, kind: Literal["tenant", "key"], subject_id: int, change: PolicyChange
) -> Policy:
    """Writes the fields of `change`, keeps all others, and returns the policy as stored afterwards."""
    changed = {name: value for name, value in change.items() if name in Policy.__annotations__}
    names = [f"{kind}_id", *changed]
    values = ", ".join(f"${number}" for number in range(1, len(names) + 1))
    updates = ", ".join(f"{name} = excluded.{name}" for name in names)
    row = await connection.fetchrow(
        f"INSERT INTO gateway.{kind}_limits ({', '.join(names)}) VALUES ({values}) "  # noqa: S608 (names of PolicyChange)
        f"ON CONFLICT ({kind}_id) DO UPDATE SET {updates} RETURNING *",
        subject_id,
        *changed.values(),
    )
    assert row is not None  # noqa: S101 (an upsert returns its row)
    return policy_from_row(row)


def policy_from_row(row: asyncpg.Record | Mapping[str, Any]) -> Policy:
    """Reads the policy from a row of `tenant_limits` or `key_limits`."""
    return Policy(
        rpm=row["rpm"],
        tpm=row["tpm"],
        concurrent=row["concurrent"],
        max_output=row["max_output"],
        max_body=row["max_body"],
        weight=row.get("weight"),
        budget_day=row["budget_day"],
        budget_month=row["budget_month"],
        budget_total=row["budget_total"],
        allow_all_models=row["allow_all_models"],
        allowed_models=row["allowed_models"],
    )
