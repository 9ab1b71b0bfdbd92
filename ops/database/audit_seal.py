"""Seals the rows of the audit log into links of the audit chain, after the transactions that inserted them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gateway.stores.postgres import Database

LINK_EVERY_S = 60.0
LINK_ROWS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Mark:
    """Every row with a number up to `seq` belongs to a transaction whose id is below `xid`."""

    seq: int
    xid: str


class AuditSealer:
    """Creates at most one link every `link_every_s`, and one for each `link_rows_max` rows when there are more.

    Any number of processes may seal at once; one of them at a time creates a link.
    """

    def __init__(
        self, database: Database, link_every_s: float = LINK_EVERY_S, link_rows_max: int = LINK_ROWS_MAX
    ) -> None:
        self._database = database
        self._pause = timedelta(seconds=link_every_s)
        self._link_rows_max = link_rows_max
        self._mark: Mark | None = None

    async def seal(self) -> int:
        """Seals the rows that certainly no running transaction can precede, and returns how many.

        A mark that waits for running transactions is retained for the next call, so that new transactions cannot
        postpone a link indefinitely. Raises StoreUnavailable.
        """
        mark = self._mark or await self._new_mark()
        self._mark = None
        total = 0
        while mark is not None:
            sealed = await self._database.fetchval(_SEAL, mark.seq, mark.xid, self._link_rows_max, self._pause)
            if sealed is None:
                self._mark = mark
            if not sealed:
                break
            total += sealed
        return total

    async def _new_mark(self) -> Mark | None:
        """Returns a mark, or None when there are no rows after the last link."""
        async with self._database.transaction() as connection:
            seq = await connection.fetchval(_LAST_NUMBER)
            # The id is taken in a later statement than the number. Every transaction that has a number has an older id.
            return None if seq is None else Mark(seq, await connection.fetchval("SELECT pg_current_xact_id()::text"))


_LAST_NUMBER = """
SELECT last_value FROM gateway.audit_log_seq
WHERE is_called AND last_value > coalesce((SELECT max(last_seq) FROM gateway.audit_chain), 0)
"""

_SEAL = "SELECT gateway.seal_audit_log($1, $2::text::xid8, $3, $4)"
