"""Verifies the audit chain in PostgreSQL: whether the audit log still holds the rows that were written to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from gateway.stores.postgres import Database

LINKS_PER_READ = 500
PROBLEMS_MAX = 20


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The result of a verification of the whole chain.

    `head` is the number of the last link and its hash in hexadecimal, None for an empty chain. A copy kept elsewhere
    proves later that nothing before that link was changed. `problems` are sentences, at most PROBLEMS_MAX.
    """

    links: int
    rows: int
    head: tuple[int, str] | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A stored link, with the count and the digest of its rows as they are now.

    `found_digest` is None when the link has no rows any more.
    """

    link: int
    rows: int
    first_ts: datetime
    digest: bytes
    previous: bytes
    hash: bytes
    found_rows: int
    found_digest: bytes | None

    def hash_matches(self) -> bool:
        """Whether `hash` is the SHA-256 of the previous hash, the digest and the number of this link."""
        number = self.link.to_bytes(8, "big", signed=True)
        return self.hash == hashlib.sha256(self.previous + self.digest + number).digest()


class AuditChain:
    """Reads the chain from its first link to its last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def verify(self, kept_since: datetime, noted_head: tuple[int, str] | None = None) -> ChainReport:
        """Recomputes every link. Rows older than `kept_since` (aware) may be missing because retention drops them.

        `noted_head` is the head of an earlier report; it must still be part of the chain. Raises StoreUnavailable.
        """
        verifier = ChainVerifier(kept_since, noted_head)
        after = 0
        while found := await self._database.fetch(_LINKS, after, LINKS_PER_READ):
            for row in found:
                verifier.add(Link(**dict(row)))
            after = found[-1]["link"]
        if unchained := await self._database.fetchval(_UNCHAINED_ROWS):
            verifier.add_problem(f"{unchained} rows were inserted without a link of the chain")
        return verifier.report()


class ChainVerifier:
    """Checks links in order and collects problems. Pure."""

    def __init__(self, kept_since: datetime, noted_head: tuple[int, str] | None) -> None:
        self._kept_since = kept_since
        self._noted_head = noted_head
        self._last: Link | None = None
        self._links = 0
        self._rows = 0
        self._problems: list[str] = []

    def add_problem(self, sentence: str) -> None:
        """Records a problem, unless PROBLEMS_MAX are recorded already."""
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(sentence)

    def add(self, link: Link) -> None:
        """Checks the next link."""
        last, number = self._last, link.link
        if last and (number, link.previous) != (last.link + 1, last.hash):
            self.add_problem(f"link {number} does not continue link {last.link}: links were removed or inserted")
        if not link.hash_matches():
            self.add_problem(f"link {number} was changed")
        pruned = link.found_rows < link.rows and link.first_ts < self._kept_since
        if link.found_digest != link.digest and not pruned:
            self.add_problem(f"rows of link {number} were changed, removed or inserted")
        if self._noted_head and number == self._noted_head[0] and link.hash.hex() != self._noted_head[1]:
            self.add_problem(f"link {number} differs from the noted head")
        self._last = link
        self._links += 1
        self._rows += link.found_rows

    def report(self) -> ChainReport:
        """Returns the report after the last link."""
        last = self._last
        if self._noted_head and (last is None or last.link < self._noted_head[0]):
            self.add_problem(f"the chain ends before link {self._noted_head[0]}, the noted head")
        head = (last.link, last.hash.hex()) if last else None
        return ChainReport(self._links, self._rows, head, tuple(self._problems))


_LINKS = """
SELECT c.link, c.rows, c.first_ts, c.digest, c.previous, c.hash, d.rows AS found_rows, d.digest AS found_digest
FROM (SELECT * FROM gateway.audit_chain WHERE link > $1 ORDER BY link LIMIT $2) c, gateway.audit_digest(c.link) d
ORDER BY c.link
"""

# Rows that are older than the chain have no link. One hour allows for clocks that differ.
_UNCHAINED_ROWS = """
SELECT count(*) FROM gateway.audit_log a
WHERE NOT EXISTS (SELECT FROM gateway.audit_chain c WHERE c.link = a.link)
    AND (a.link IS NOT NULL OR a.ts > (SELECT min(chained_at) FROM gateway.audit_chain) + interval '1 hour')
"""
