"""The ledger in PostgreSQL: audit rows and budget usage, added together or not at all, each request once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, get_args, get_type_hints

from gateway.quota import periods
from gateway.quota.port import PeriodUsage, TenantUsage
from gateway.record.entry import Entry
from gateway.record.request import TEXT_LENGTH_MAX
from gateway.stores.postgres import Database, storable
from gateway.values import Outcome, Period, UsageSource

BATCH_MAX = 500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SQL_TYPES = {str: "text", int: "bigint", bool: "boolean", Outcome: "text", UsageSource: "text"}
_ENUMS = {Outcome: "gateway.outcome", UsageSource: "gateway.usage_source"}


def _column_types() -> dict[str, tuple[str, str]]:
    """Per column, in the order of the entry's fields: the SQL type of its parameter, and the inserted expression.

    The columns are named like the fields, except that `ts_ms` is stored as `ts`.
    """
    columns = {}
    for name, annotation in get_type_hints(Entry).items():
        if name == "ts_ms":
            columns["ts"] = ("timestamptz", "ts")
            continue
        kind = next(kind for kind in (annotation, *get_args(annotation)) if kind in _SQL_TYPES)
        columns[name] = (_SQL_TYPES[kind], f"{name}::{_ENUMS[kind]}" if kind in _ENUMS else name)
    return columns


_COLUMNS = _column_types()
COLUMNS = tuple(_COLUMNS)
"""The columns of an audit row, in the order of the entry's fields."""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The admitted requests of a key to one model since some time, and their tokens."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: int


class Ledger:
    """Appends entries, and reads sums.

    `on_appended` receives the entries that have become new audit rows, each once, after their transaction.
    """

    def __init__(self, database: Database, on_appended: Callable[[Sequence[Entry]], None] | None = None) -> None:
        self._database = database
        self._on_appended = on_appended

    async def usage_by_model(self, key_id: int, since: datetime) -> list[ModelUsage]:
        """The usage of a key's account since `since` (aware), most tokens first. Raises StoreUnavailable."""
        rows = await self._database.fetch(_USAGE_BY_MODEL, key_id, since)
        return [ModelUsage(*row) for row in rows]

    async def append(self, entries: Sequence[Entry]) -> frozenset[int]:
        """Records the entries in one transaction. An entry that was recorded before changes nothing, and neither does a
        denial of a request that has a row.

        For each new row that is not a denial, its usage is added to the tenant and to the key, for the day, the month
        and the total of the entry's own time. Returns the tenants of the entries that were recorded before, denials
        excepted: these may have been counted twice. Raises StoreUnavailable, DataRefused or Conflict, and then nothing
        was recorded.
        """
        known = Counter(entry.tenant_id for entry in entries if entry.outcome is not Outcome.DENIED)
        unrecorded = {(_stored(entry.request_id), _time(entry.ts_ms)): entry for entry in entries}
        appended: list[Entry] = []
        async with self._database.transaction() as connection:
            for start in range(0, len(entries), BATCH_MAX):
                for row in await connection.fetch(_APPEND, *_columns(entries[start : start + BATCH_MAX])):
                    entry = unrecorded[row["request_id"], row["ts"]]
                    appended.append(entry)
                    if entry.outcome is not Outcome.DENIED:
                        known[entry.tenant_id] -= 1
        if self._on_appended and appended:
            self._on_appended(appended)
        return frozenset(tenant_id for tenant_id, count in known.items() if count and tenant_id is not None)

    async def reject(self, entry: Entry, reason: str) -> frozenset[int]:
        """Stores an entry that `append` refused, with the reason, and adds its usage as `append` does.

        Returns the tenant if the entry was stored before, as `append` does. Raises StoreUnavailable, DataRefused or
        Conflict, and then nothing was stored.
        """
        text = storable(entry.to_json())
        values = [column[0] for name, column in zip(COLUMNS, _columns([entry]), strict=True) if name in _COUNTED]
        added = await self._database.fetchval(_REJECT, _stored(entry.request_id), _stored(reason), text, *values)
        if added or entry.outcome is Outcome.DENIED or entry.tenant_id is None:
            return frozenset()
        return frozenset([entry.tenant_id])

    async def usage_of(self, tenant_id: int, now: datetime, waiting: Collection[str]) -> TenantUsage:
        """The usage of a tenant and its keys in the periods of `now` (aware), and which of `waiting` it includes.

        A `gateway.quota.port.UsageLoader`: both come from one snapshot. Periods without usage are left out. Raises
        StoreUnavailable.
        """
        starts = periods.starts(now)
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            used = await connection.fetch(_USED, tenant_id, list(starts), list(starts.values()))
            recorded = await connection.fetch(_RECORDED, list(waiting))
        return TenantUsage(
            tuple(
                PeriodUsage(r["subject"], r["subject_id"], Period(r["period"]), r["period_start"], r["tokens"])
                for r in used
            ),
            frozenset(row["request_id"] for row in recorded),
        )


# Adds the usage of the rows in `added` to the sums of their tenants and keys.
_COUNT = f"""
    INSERT INTO gateway.budget_usage AS usage
        (subject, subject_id, period, period_start, input_tokens, output_tokens, requests)
    SELECT subject, subject_id, period, period_start, sum(input_tokens), sum(output_tokens), count(*)
    FROM added,
        LATERAL (VALUES ('tenant'::gateway.budget_subject, tenant_id), ('key', key_id)) AS s (subject, subject_id),
        LATERAL (VALUES ('day'::gateway.budget_period, at::date),
                        ('month', date_trunc('month', at)::date),
                        ('total', date '{periods.TOTAL_START}')) AS p (period, period_start)
    WHERE tenant_id IS NOT NULL AND subject_id IS NOT NULL AND outcome <> 'denied'
    GROUP BY subject, subject_id, period, period_start
    ORDER BY subject, subject_id, period, period_start
    ON CONFLICT (subject, subject_id, period, period_start) DO UPDATE SET
        input_tokens = usage.input_tokens + excluded.input_tokens,
        output_tokens = usage.output_tokens + excluded.output_tokens,
        requests = usage.requests + excluded.requests
"""  # noqa: S608 (the dates are this module's own)

# Envoy and `authz` may both report that a request was denied. After a loss of Redis' data, both reports may arrive.
# Their times differ by at most this.
DENIALS_APART_MAX = timedelta(hours=1)

# Rows are sorted, so that two writers with the same requests or tenants lock them in the same order.
_APPEND = f"""
WITH added AS (
    INSERT INTO gateway.audit_log ({", ".join(COLUMNS)})
    SELECT {", ".join(expression for _, expression in _COLUMNS.values())}
    FROM unnest({", ".join(f"${n}::{kind}[]" for n, (kind, _) in enumerate(_COLUMNS.values(), 1))})
        AS entry ({", ".join(COLUMNS)})
    WHERE entry.outcome <> '{Outcome.DENIED}' OR NOT EXISTS (
        SELECT FROM gateway.audit_log AS known
        WHERE known.request_id = entry.request_id
            AND known.ts BETWEEN entry.ts - interval '{DENIALS_APART_MAX}' AND entry.ts + interval '{DENIALS_APART_MAX}'
    )
    ORDER BY request_id, ts
    ON CONFLICT (request_id, ts) DO NOTHING
    RETURNING request_id, ts, tenant_id, key_id, ts AT TIME ZONE 'UTC' AS at, outcome, input_tokens, output_tokens
), counted AS ({_COUNT})
SELECT request_id, ts FROM added
"""  # noqa: S608 (the names are this module's own)

# The columns of an entry that its usage needs.
_COUNTED = ("tenant_id", "key_id", "ts", "outcome", "input_tokens", "output_tokens")

_REJECT = f"""
WITH rejected AS (
    INSERT INTO gateway.ledger_rejects (request_id, reason, entry) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING
    RETURNING request_id
), added AS (
    SELECT tenant_id, key_id, ts AT TIME ZONE 'UTC' AS at, outcome, input_tokens, output_tokens
    FROM rejected, (VALUES ({", ".join(f"${n}::{_COLUMNS[name][0]}" for n, name in enumerate(_COUNTED, 4))}))
        AS entry ({", ".join(_COUNTED)})
), counted AS ({_COUNT})
SELECT count(*) FROM rejected
"""  # noqa: S608 (the names are this module's own)

_USED = """
SELECT u.subject::text, u.subject_id, u.period::text, u.period_start, u.input_tokens + u.output_tokens AS tokens
FROM unnest($2::text[], $3::date[]) AS current (period, start)
JOIN gateway.budget_usage u ON u.period = current.period::gateway.budget_period AND u.period_start >= current.start
WHERE (u.subject = 'tenant' AND u.subject_id = $1)
   OR (u.subject = 'key' AND u.subject_id IN (SELECT id FROM gateway.api_keys WHERE tenant_id = $1))
"""

_REJECTED = "SELECT request_id FROM gateway.ledger_rejects WHERE request_id = ANY($1::text[])"

_IN_AUDIT_LOG = "SELECT request_id FROM gateway.audit_log WHERE request_id = ANY($1::text[])"

_RECORDED = f"{_IN_AUDIT_LOG} UNION {_REJECTED}"


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


_values: attrgetter[tuple[Any, ...]] = attrgetter(*("ts_ms" if name == "ts" else name for name in COLUMNS))


def _columns(entries: Sequence[Entry]) -> list[Sequence[object]]:
    """The values of each of COLUMNS."""
    columns: list[Sequence[object]] = []
    for (kind, _), values in zip(_COLUMNS.values(), zip(*map(_values, entries), strict=True), strict=True):
        match kind:
            case "timestamptz":
                columns.append([_time(ms) for ms in values])
            case "text":
                columns.append([None if text is None else _stored(text) for text in values])
            case _:
                columns.append(values)
    return columns


def _stored(text: str) -> str:
    if len(text) <= TEXT_LENGTH_MAX and text.isascii() and "\0" not in text:
        return text
    return storable(text[:TEXT_LENGTH_MAX])


_USAGE_BY_MODEL = """
SELECT model, count(*), sum(input_tokens)::bigint, sum(output_tokens)::bigint
FROM gateway.audit_log WHERE key_id = $1 AND ts >= $2 AND outcome <> 'denied' AND model IS NOT NULL
GROUP BY model ORDER BY sum(input_tokens + output_tokens) DESC, model
"""
