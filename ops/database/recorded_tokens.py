"""What the metrics need of PostgreSQL: all tokens that the ledger has recorded, by tenant, and names of tenants."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.stores.postgres import Database


@dataclass(frozen=True, slots=True)
class RecordedUsage:
    """The tokens of one tenant since the database was created. `name` is None when the tenant no longer exists."""

    name: str | None
    input_tokens: int
    output_tokens: int


async def recorded_tokens(database: Database) -> list[RecordedUsage]:
    """The usage of every tenant that ever had any, the oldest tenant first. Raises StoreUnavailable.

    These sums change in the transaction that records a row or sets it aside, so they are never less than the ledger.
    """
    return [RecordedUsage(*row) for row in await database.fetch(_RECORDED)]


async def tenant_names(database: Database, ids: Collection[int]) -> dict[int, str]:
    """The names of those of these tenants that exist, by id. Raises StoreUnavailable."""
    rows = await database.fetch("SELECT id, name FROM gateway.tenants WHERE id = ANY($1::bigint[])", list(ids))
    return {row["id"]: row["name"] for row in rows}


_RECORDED = """
SELECT t.name, u.input_tokens, u.output_tokens
FROM gateway.budget_usage u LEFT JOIN gateway.tenants t ON t.id = u.subject_id
WHERE u.subject = 'tenant' AND u.period = 'total'
ORDER BY u.subject_id
"""
