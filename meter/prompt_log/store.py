"""The prompt log in PostgreSQL: requests and answers of keys created with `--log-prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.stores.postgres import Database, storable


@dataclass(frozen=True, slots=True, repr=False)
class PromptRecord:
    """One request and its answer as texts. Times are aware; `expires_at` is when the row may be deleted."""

    request_id: str
    ts: datetime
    tenant_id: int
    key_id: int
    model: str
    request: str
    response: str
    expires_at: datetime


class PromptLog:
    """Appends records. Operators read them with `show-prompts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, records: Sequence[PromptRecord]) -> None:
        """Records them in one transaction. Records that exist already have no effect.

        Raises DataRefused or Conflict when PostgreSQL rejects one of them, and StoreUnavailable; then none is recorded.
        """
        async with self._database.transaction() as connection:
            await connection.executemany(_APPEND, [_row(record) for record in records])


_APPEND = """
INSERT INTO gateway.prompt_log (request_id, ts, tenant_id, key_id, model, request, response, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (request_id, ts) DO NOTHING
"""


def _row(record: PromptRecord) -> tuple[object, ...]:
    return (
        record.request_id,
        record.ts,
        record.tenant_id,
        record.key_id,
        record.model,
        storable(record.request),
        storable(record.response),
        record.expires_at,
    )
