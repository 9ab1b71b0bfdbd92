"""The audit chain in PostgreSQL: whether the audit log is what was written to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from gateway.stores.postgres import Database

LINKS_PER_READ = 500


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a look at the whole chain found.

    `head` is the last link and its hash in hexadecimal, None for an empty chain: kept elsewhere, it proves later that
    nothing before it was changed. `problems` are sentences, at most PROBLEMS_MAX.
    """

    links: int
    rows: int
    head: tuple[int, str] | None
    problems: tuple[str, ...]


PROBLEMS_MAX = 20


@dataclass(frozen=True, slots=True)
class Link:
    """One link as it stands, and what its rows say now; `found_digest` is None when there are none."""

    link: int
    rows: int
    first_ts: datetime
    digest: bytes
    previous: bytes
    hash: bytes
    found_rows: int
    found_digest: bytes | None

    def is_whole(self) -> bool:
        """Whether the hash is that of this link."""
        number = self.link.to_bytes(8, "big", signed=True)
        return self.hash == hashlib.sha256(self.previous + self.digest + number).digest()


class AuditChain:
    """Reads the chain from its first link to its last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def verify(self, kept_since: datetime, head: tuple[int, str] | None = None) -> ChainReport:
        """Recomputes every link. Rows older than `kept_since` (aware) may be missing: retention took them.

        `head` is one that was noted earlier, which must still be in the chain. Raises StoreUnavailable.
        """
        walk = ChainVerifier(kept_since, head)
        after = 0
        while found := await self._database.fetch(_LINKS, after, LINKS_PER_READ):
            for row in found:
                walk.take(Link(**dict(row)))
            after = found[-1]["link"]
        if stray := await self._database.fetchval(_STRAY):
            walk.problem(f"{stray} rows were put in past the chain")
        return walk.verdict()


class ChainVerifier:
    """The links so far, and what is wrong with them. Pure."""

    def __init__(self, kept_since: datetime, head: tuple[int, str] | None) -> None:
        self._kept_since = kept_since
        self._head = head
        self._last: Link | None = None
        self._links = 0
        self._rows = 0
        self._problems: list[str] = []

    def problem(self, sentence: str) -> None:
        """Notes what is wrong; past PROBLEMS_MAX nothing more."""
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(sentence)

    def take(self, link: Link) -> None:
        """The next link."""
        last, number = self._last, link.link
        if last and (number, link.previous) != (last.link + 1, last.hash):
            self.problem(f"link {number} does not continue link {last.link}: links were taken away or put in")
        if not link.is_whole():
            self.problem(f"link {number} was changed")
        pruned = link.found_rows < link.rows and link.first_ts < self._kept_since
        if link.found_digest != link.digest and not pruned:
            self.problem(f"rows of link {number} were changed, taken away or put in")
        if self._head and number == self._head[0] and link.hash.hex() != self._head[1]:
            self.problem(f"link {number} is not the one that was noted")
        self._last = link
        self._links += 1
        self._rows += link.found_rows

    def verdict(self) -> ChainReport:
        """After the last link."""
        last = self._last
        if self._head and (last is None or last.link < self._head[0]):
            self.problem(f"the chain ends before link {self._head[0]}, which was noted")
        head = (last.link, last.hash.hex()) if last else None
        return ChainReport(self._links, self._rows, head, tuple(self._problems))


_LINKS = """
SELECT c.link, c.rows, c.first_ts, c.digest, c.previous, c.hash, d.rows AS found_rows, d.digest AS found_digest
FROM (SELECT * FROM gateway.audit_chain WHERE link > $1 ORDER BY link LIMIT $2) c, gateway.audit_digest(c.link) d
ORDER BY c.link
"""

# Rows from before there was a chain have no link. The hour is for clocks that differ.
_STRAY = """
SELECT count(*) FROM gateway.audit_log a
WHERE NOT EXISTS (SELECT FROM gateway.audit_chain c WHERE c.link = a.link)
    AND (a.link IS NOT NULL OR a.ts > (SELECT min(chained_at) FROM gateway.audit_chain) + interval '1 hour')
"""
