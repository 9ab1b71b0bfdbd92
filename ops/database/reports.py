"""Reports for operators: usage, budgets and the audit log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from gateway.errors import NotFound
from gateway.ledger.store import COLUMNS
from gateway.quota import periods
from gateway.stores.postgres import Database, PooledConnection
from gateway.values import Period
from ops.database.policies import PolicySubject, find_subject

# The ids of tenant and key are internal.
AUDIT_COLUMNS = tuple(name for name in COLUMNS if name not in ("tenant_id", "key_id"))
"""The columns of an audit row that operators see."""


USAGE_COLUMNS = ("requests", "input_tokens", "output_tokens", "queued_ms")
"""The sums of a group of requests."""


class GroupBy(StrEnum):
    """The dimension that usage is summed by."""

    DAY = "day"
    MODEL = "model"
    KEY = "key"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Filter:
    """Restricts a report to some requests. None restricts nothing; `since` is aware."""

    tenant: str | None = None
    prefix: str | None = None
    request_id: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Restricts audit rows further. None restricts nothing; `statuses` are inclusive, `path` is how paths begin."""

    statuses: tuple[int, int] | None = None
    code: str | None = None
    model: str | None = None
    path: str | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The count of admitted requests and their tokens, for the day, model, key or tenant that `labels` names.

    `queued_ms` is the time in ms that all of them waited in the queue.
    """

    labels: dict[str, str | None]
    requests: int
    input_tokens: int
    output_tokens: int
    queued_ms: int


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A budget and its use in the current period, both in tokens. `resets_at` is None for the period `total`."""

    scope: Literal["tenant", "key"]
    subject_id: int
    tenant_id: int
    tenant: str
    prefix: str | None
    period: Period
    limit: int
    used: int
    resets_at: datetime | None


class Reports:
    """Read-only queries. All methods raise StoreUnavailable, and NotFound for an unknown tenant or key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def usage(self, by: GroupBy, where: Filter) -> list[UsageRow]:
        """Sums the audit log without denied requests. Days are in order, all other groups by tokens, most first."""
        labels, order = _GROUPS[by]
        query = f"""
            SELECT {", ".join(f"{expression} AS {name}" for name, expression in labels.items())}, count(*) AS requests,
                   sum(a.input_tokens)::bigint AS input_tokens, sum(a.output_tokens)::bigint AS output_tokens,
                   coalesce(sum(a.queued_ms), 0)::bigint AS queued_ms
            FROM gateway.audit_log a
            LEFT JOIN gateway.tenants t ON t.id = a.tenant_id
            LEFT JOIN gateway.api_keys secret ON secret.id = a.key_id
            LEFT JOIN ({_LATEST_KEYS}) k ON k.account_id = secret.account_id
            WHERE a.outcome <> 'denied' AND {_OF_KEY} AND {_WHERE}
            GROUP BY {", ".join(str(position) for position in range(1, len(labels) + 1))} ORDER BY {order}
        """  # noqa: S608 (the names are constants of this module)
        async with self._database.transaction(readonly=True) as connection:
            rows = await connection.fetch(query, *await _arguments(connection, where))
        return [UsageRow({name: row[name] for name in labels}, *(row[name] for name in USAGE_COLUMNS)) for row in rows]

    async def budgets(self, where: Filter, now: datetime) -> list[BudgetRow]:
        """Returns the budgets of the tenants and keys that match `where`, as of `now` (aware)."""
        starts = periods.starts(now)
        async with self._database.transaction(readonly=True) as connection:
            tenant_id, key_id, *_ = await _arguments(connection, where)
            rows = await connection.fetch(_BUDGETS, tenant_id, key_id, list(starts), list(starts.values()))
        return [
            BudgetRow(
                scope=row["scope"],
                subject_id=row["subject_id"],
                tenant_id=row["tenant_id"],
                tenant=row["tenant"],
                prefix=row["prefix"],
                period=Period(row["period"]),
                limit=row["budget"],
                used=row["used"],
                resets_at=periods.end(Period(row["period"]), now),
            )
            for row in rows
        ]

    async def audit(self, where: Filter, limit: int, also: AuditFilter | None = None) -> list[dict[str, object]]:
        """Returns the newest `limit` audit rows, oldest first, each with the columns of AUDIT_COLUMNS by name.

        The rows of a prefix are those of its account, and those of requests that presented this very prefix, whether
        their secret matched or not. The key may have been deleted if it has rows.
        """
        also = also or AuditFilter()
        query = f"SELECT {', '.join(f'a.{name}' for name in AUDIT_COLUMNS)} FROM gateway.audit_log a WHERE "  # noqa: S608
        query += f"{_OF_PREFIX} AND {_WHERE} {_AUDIT_WHERE} ORDER BY a.ts DESC, a.request_id DESC LIMIT $11"
        more = (*(also.statuses or (None, None)), also.code, also.model, also.path, also.outcome)
        async with self._database.transaction(readonly=True) as connection:
            try:
                arguments = await _arguments(connection, where)
            except NotFound:
                if where.prefix is None or not await connection.fetchval(_HAS_ROWS, where.prefix):
                    raise
                arguments = await _arguments(connection, replace(where, prefix=None))
            rows = await connection.fetch(query, *arguments, *more, limit, where.prefix)
        return [dict(row) for row in reversed(rows)]


# The last key of each account: rotation gives it a higher id than the one it replaces.
_LATEST_KEYS = "SELECT DISTINCT ON (account_id) * FROM gateway.api_keys ORDER BY account_id, id DESC"

_GROUPS: dict[GroupBy, tuple[dict[str, str], str]] = {
    GroupBy.DAY: ({"day": "(a.ts AT TIME ZONE 'UTC')::date::text"}, "day"),
    GroupBy.MODEL: ({"model": "a.model"}, "sum(a.input_tokens + a.output_tokens) DESC, model"),
    GroupBy.KEY: (
        {"prefix": "coalesce(k.prefix, a.key_prefix)", "key": "k.name", "tenant": "coalesce(t.name, a.tenant)"},
        "sum(a.input_tokens + a.output_tokens) DESC, prefix",
    ),
    GroupBy.TENANT: ({"tenant": "coalesce(t.name, a.tenant)"}, "sum(a.input_tokens + a.output_tokens) DESC, tenant"),
}

_ACCOUNT = "a.key_id IN (SELECT id FROM gateway.api_keys WHERE account_id = $2::bigint)"
_OF_KEY = f"($2::bigint IS NULL OR {_ACCOUNT})"
_OF_PREFIX = f"($12::text IS NULL OR a.key_prefix = $12 OR {_ACCOUNT})"

_WHERE = """
    ($1::bigint IS NULL OR a.tenant_id = $1)
    AND ($3::text IS NULL OR a.request_id = $3) AND ($4::timestamptz IS NULL OR a.ts >= $4)
"""

_HAS_ROWS = "SELECT true FROM gateway.audit_log WHERE key_prefix = $1 LIMIT 1"

_AUDIT_WHERE = """
    AND ($5::int IS NULL OR a.status BETWEEN $5 AND $6::int) AND ($7::text IS NULL OR a.code = $7)
    AND ($8::text IS NULL OR a.model = $8) AND ($9::text IS NULL OR starts_with(a.path, $9))
    AND ($10::text IS NULL OR a.outcome::text = $10)
"""

_BUDGETS = """
WITH subjects AS (
    SELECT 'tenant' AS scope, t.id AS subject_id, t.id AS tenant_id, t.name AS tenant, NULL AS prefix,
           l.budget_day, l.budget_month, l.budget_total
    FROM gateway.tenants t JOIN gateway.tenant_limits l ON l.tenant_id = t.id
    WHERE t.id = coalesce($1, (SELECT tenant_id FROM gateway.api_keys WHERE id = $2), t.id)
    UNION ALL
    SELECT 'key', k.account_id, t.id, t.name, k.prefix, l.budget_day, l.budget_month, l.budget_total
    FROM (
        SELECT DISTINCT ON (account_id) * FROM gateway.api_keys WHERE status = 'active' ORDER BY account_id, id DESC
    ) k
    JOIN gateway.tenants t ON t.id = k.tenant_id JOIN gateway.key_limits l ON l.key_id = k.account_id
    WHERE t.id = coalesce($1, t.id) AND k.account_id = coalesce($2, k.account_id)
)
SELECT s.scope, s.subject_id, s.tenant_id, s.tenant, s.prefix, p.period, p.budget,
       coalesce(u.input_tokens + u.output_tokens, 0) AS used
FROM subjects s
CROSS JOIN LATERAL (VALUES (1, 'day', budget_day), (2, 'month', budget_month), (3, 'total', budget_total))
    AS p (ordinal, period, budget)
JOIN unnest($3::text[], $4::date[]) AS current (period, start) ON current.period = p.period
LEFT JOIN gateway.budget_usage u ON u.subject = s.scope::gateway.budget_subject AND u.subject_id = s.subject_id
    AND u.period = p.period::gateway.budget_period AND u.period_start = current.start
WHERE p.budget IS NOT NULL
ORDER BY lower(s.tenant), s.prefix NULLS FIRST, p.ordinal
"""


async def _arguments(
    connection: PooledConnection, where: Filter
) -> tuple[int | None, int | None, str | None, datetime | None]:
    tenant_id = None if where.tenant is None else await find_subject(connection, PolicySubject("tenant", where.tenant))
    key_id = None if where.prefix is None else await find_subject(connection, PolicySubject("key", where.prefix))
    return tenant_id, key_id, where.request_id, where.since
