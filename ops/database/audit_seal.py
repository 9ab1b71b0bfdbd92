"""Seals the rows of the audit log into links of the audit chain, after the transactions that inserted them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from gateway.errors import StoreUnavailable
from gateway.stores.postgres import Database

LINK_EVERY_S = 60.0
LINK_ROWS_MAX = 10_000
# PostgreSQL ends a statement after this share of its client's deadline. The rest is for the way back.
DEADLINE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Mark:
    """Every row with a number up to `seq` belongs to a transaction whose id is below `xid`."""

    seq: int
    xid: str


class LinkSize:
    """How many rows the next link may have, at most `rows_max`: fewer when PostgreSQL needs too long for a link."""

    def __init__(self, rows_max: int, deadline_s: float) -> None:
        self._rows_max = rows_max
        self._deadline_s = deadline_s
        self.rows = rows_max

    def failed(self) -> None:
        """The link was not created: the next attempt has half the rows, at least one."""
        self.rows = max(1, self.rows // 2)

    def created(self, duration_s: float) -> None:
        """The link was created: the next one may have twice the rows if they fit into half of the deadline."""
        if duration_s < self._deadline_s / 4:
            self.rows = min(2 * self.rows, self._rows_max)


class AuditSealer:
    """Creates at most one link every `link_every_s`, and one for each `link_rows_max` rows when there are more.

    PostgreSQL undoes a link that takes longer than DEADLINE_SHARE of the deadline of a command, and the next attempt
    has fewer rows. Any number of processes may seal at once; one of them at a time creates a link.
    """

    def __init__(
        self, database: Database, link_every_s: float = LINK_EVERY_S, link_rows_max: int = LINK_ROWS_MAX
    ) -> None:
        self._database = database
        self._pause = timedelta(seconds=link_every_s)
        self._size = LinkSize(link_rows_max, database.timeout_s)
        self._mark: Mark | None = None

    async def seal(self) -> int:
        """Seals the rows that certainly no running transaction can precede, and returns how many.

        A mark that waits for running transactions is retained for the next call, so that new transactions cannot
        postpone a link indefinitely. Raises StoreUnavailable; the next call then creates smaller links.
        """
        self._mark = self._mark or await self._new_mark()
        total = 0
        while self._mark is not None:
            sealed = await self._create_link(self._mark)
            if sealed == 0:
                self._mark = None
            if not sealed:
                break
            total += sealed
        return total

    async def _create_link(self, mark: Mark) -> int | None:
        """Returns the number of sealed rows; None while the mark waits for running transactions."""
        started_s = time.monotonic()
        try:
            async with self._database.transaction() as connection:
                # Without it, PostgreSQL would finish the statement after its client has stopped to wait for it.
                await connection.execute(_LIMIT, f"{1000 * DEADLINE_SHARE * self._database.timeout_s:.0f}")
                sealed: int | None = await connection.fetchval(_SEAL, mark.seq, mark.xid, self._size.rows, self._pause)
        except StoreUnavailable:
            self._size.failed()
            raise
        if sealed:
            self._size.created(time.monotonic() - started_s)
        return sealed

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

_LIMIT = "SELECT set_config('statement_timeout', $1, true)"
_SEAL = "SELECT gateway.seal_audit_log($1, $2::text::xid8, $3, $4)"
