"""The stored policy of a tenant or a key, and how operators name whom it is for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypedDict

import asyncpg

from gateway.errors import NotFound
from gateway.stores.postgres import PooledConnection


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a policy is for: a tenant by its name, or a key by its prefix."""

    kind: Literal["tenant", "key"]
    name: str


class PolicyChange(TypedDict, total=False):
    """What to change of a policy; what is left out stays. None inherits, and for a budget it is none."""

    rpm: int | None
    tpm: int | None
    concurrent: int | None
    budget_day: int | None
    budget_month: int | None
    budget_total: int | None
    allow_all_models: bool | None
    allowed_models: list[str] | None


class Policy(PolicyChange, total=True):
    """A whole policy as stored."""


def only_models(models: Collection[str]) -> PolicyChange:
    """The change that allows these models (canonical names) and no others."""
    return {"allowed_models": sorted(set(models)), "allow_all_models": False}


async def find_subject(connection: PooledConnection, subject: Subject) -> int:
    """The id of a tenant or key. Raises NotFound."""
    if subject.kind == "tenant":
        return await find_tenant(connection, subject.name)
    key_id = await connection.fetchval("SELECT id FROM gateway.api_keys WHERE prefix = $1", subject.name)
    if key_id is None:
        raise no_key(subject.name)
    return int(key_id)


def no_key(prefix: str) -> NotFound:
    """What is raised where no key has that prefix."""
    return NotFound(f"there is no key with the prefix {prefix}; `list-keys` shows those there are")


async def find_tenant(connection: PooledConnection, name: str) -> int:
    """The id of a tenant. Raises NotFound, which names a tenant that is spelled alike."""
    tenant_id = await connection.fetchval("SELECT id FROM gateway.tenants WHERE lower(name) = lower($1)", name)
    if tenant_id is not None:
        return int(tenant_id)
    names = {row["name"].lower(): row["name"] for row in await connection.fetch("SELECT name FROM gateway.tenants")}
    near = get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {names[near[0]]}?" if near else "`list-tenants` shows those there are"
    raise NotFound(f"there is no tenant named {name}; {hint}")


async def store_policy(
    connection: PooledConnection, kind: Literal["tenant", "key"], subject_id: int, change: PolicyChange
) -> Policy:
    """Changes what `change` says and leaves the rest; returns what is stored afterwards."""
    names = [name for name in Policy.__annotations__ if name in change]
    columns = ", ".join([f"{kind}_id", *names])
    values = ", ".join(f"${n}" for n in range(1, len(names) + 2))
    updates = ", ".join(f"{name} = excluded.{name}" for name in [f"{kind}_id", *names])
    row = await connection.fetchrow(
        f"INSERT INTO gateway.{kind}_limits ({columns}) VALUES ({values}) "  # noqa: S608 (names of PolicyChange)
        f"ON CONFLICT ({kind}_id) DO UPDATE SET {updates} RETURNING *",
        subject_id,
        *(change[name] for name in names),  # type: ignore[literal-required]
    )
    assert row is not None  # noqa: S101 (an upsert returns its row)
    return policy_of(row)


def policy_of(row: asyncpg.Record) -> Policy:
    """The policy in a row that has its columns."""
    return Policy(**{name: row[name] for name in Policy.__annotations__})  # type: ignore[no-any-return, typeddict-item]
