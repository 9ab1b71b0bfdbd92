"""Retention: drops old months of the audit log and expired prompts, and prepares the partitions of coming months."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.stores.postgres import Database

AUDIT_MONTHS_AHEAD = 3
PROMPTS_PER_STATEMENT = 5000


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of one run: names of the dropped audit partitions, and the numbers of deleted prompts, of partitions
    created for coming months, and of links removed from the audit chain."""

    audit_partitions: tuple[str, ...]
    prompts: int
    partitions_made: int
    audit_links: int


class Retention:
    """Enforces retention, and prepares the audit partitions of the coming months."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prune(self, kept_since: datetime, now: datetime) -> Pruned:
        """Drops audit months that end before `kept_since`, rejected entries from before it, and prompts that expired by
        `now` (both aware).

        Safe to run at any time and more than once. Raises StoreUnavailable.
        """
        made = await self._database.fetchval("SELECT gateway.ensure_audit_partitions($1)", AUDIT_MONTHS_AHEAD)
        dropped = await self._database.fetch("SELECT * FROM gateway.drop_audit_partitions($1)", kept_since)
        links = await self._database.fetchval("SELECT gateway.prune_audit_chain($1)", kept_since)
        await self._database.execute("DELETE FROM gateway.ledger_rejects WHERE rejected_at < $1", kept_since)
        return Pruned(tuple(row[0] for row in dropped), await self._delete_prompts(now), made, links)

    async def _delete_prompts(self, now: datetime) -> int:
        total = 0
        while True:
            deleted: int = await self._database.fetchval(_DELETE_PROMPTS, now, PROMPTS_PER_STATEMENT)
            total += deleted
            if deleted < PROMPTS_PER_STATEMENT:
                return total


_DELETE_PROMPTS = """
WITH expired AS (
    DELETE FROM gateway.prompt_log WHERE ctid IN (
        SELECT ctid FROM gateway.prompt_log WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM expired
"""
