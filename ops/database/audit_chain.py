"""Verifies the audit chain in PostgreSQL: whether the audit log and the policy changes still hold the rows that were
written to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.stores.postgres import Database
from ops.merkle.tree import EMPTY_ROOT, NODE_HEIGHT, CompactRange

LINKS_PER_READ = 4
NODES_PER_READ = 1000
# Longer than the deadline of a command: one read has up to 40,000 rows.
READ_TIMEOUT_S = 60.0
PROBLEMS_MAX = 20
# The one statement of a verification whose duration grows with the whole log.
COUNT_TIMEOUT_S = 3600.0

_SEQ_MIN = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last link of the chain: its number, its hash in hexadecimal, the rows up to it, and when it was sealed.

    `tree_size` and `tree_root` are the Merkle tree after it: the rows and changes that it has, and its hash. A copy
    that is stored elsewhere proves later that nothing before that link was changed.
    """

    link: int
    hash: str
    rows_total: int
    sealed_at: datetime
    tree_size: int = 0
    tree_root: bytes = EMPTY_ROOT


@dataclass(frozen=True, slots=True)
class Unsealed:
    """The rows and changes after the last link, which are not protected yet. `since` is the time of the oldest."""

    rows: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The result of a verification: the links, rows and changes that were checked, the last link, and what follows it.

    `head` is None for an empty chain. `problems` are sentences, at most PROBLEMS_MAX.
    """

    links: int
    rows: int
    head: ChainHead | None
    unsealed: Unsealed
    problems: tuple[str, ...]
    changes: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A stored link, with the counts and the digests of its rows and policy changes as they are now.

    `found_digest` is None when the link has no rows any more, and `changes_digest` when it seals no changes.
    """

    link: int
    first_seq: int
    last_seq: int
    first_ts: datetime
    last_ts: datetime
    rows: int
    rows_total: int
    sealed_at: datetime
    digest: bytes
    previous: bytes
    hash: bytes
    changes: int
    changes_digest: bytes | None
    found_rows: int
    found_digest: bytes | None
    found_changes: int
    found_changes_digest: bytes | None
    tree_size: int | None = None
    tree_peaks: bytes | None = None
    found_leaves: list[bytes] | None = None

    def hash_matches(self) -> bool:
        """Whether `hash` is the SHA-256 of the other columns, one per line: those of changes only if there are any, and
        those of the tree only if the link has one.

        Times are microseconds since 1970, and digests are hexadecimal.
        """
        columns = (
            self.link,
            self.first_seq,
            self.last_seq,
            _microseconds(self.first_ts),
            _microseconds(self.last_ts),
            self.rows,
            self.rows_total,
            _microseconds(self.sealed_at),
            self.digest.hex(),
            self.previous.hex(),
            *([self.changes, self.changes_digest.hex()] if self.changes_digest is not None else []),
            *([self.tree_size, self.tree_peaks.hex()] if self.tree_peaks is not None else []),
        )
        return self.hash == hashlib.sha256("\n".join(map(str, columns)).encode()).digest()


class AuditChain:
    """Reads the chain in the order of its links."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> ChainHead | None:
        """Returns the last link, None for an empty chain. Raises StoreUnavailable."""
        row = await self._database.fetchrow(_HEAD)
        if row is None:
            return None
        link, link_hash, rows_total, sealed_at, size, peaks = row
        return ChainHead(link, link_hash, rows_total, sealed_at, size, CompactRange.from_bytes(size, peaks).root())

    async def contains(self, head: ChainHead) -> bool:
        """Whether the chain still has this link, or retention has removed it. Raises StoreUnavailable."""
        found: bool = await self._database.fetchval(_CONTAINS, head.link, bytes.fromhex(head.hash))
        return found

    async def verify(
        self,
        kept_since: datetime,
        noted_head: tuple[int, str] | None = None,
        start: tuple[int, str] | None = None,
    ) -> ChainReport:
        """Recomputes every link, or those from the link `start` (number and hash), which the chain must still contain.

        Rows older than `kept_since` (aware) may be missing because retention drops them. `noted_head` is the number and
        the hash of another link that must still be part of the chain. Memory does not grow with the log: a cursor reads
        the links, and PostgreSQL computes the digests of their rows. Raises StoreUnavailable.
        """
        verifier = ChainVerifier(kept_since, noted_head, start)
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            async for row in connection.cursor(
                _LINKS, verifier.first_link, prefetch=LINKS_PER_READ, timeout=READ_TIMEOUT_S
            ):
                verifier.add(Link(**dict(row)))
            first_seq, last_seq = verifier.sealed_range
            sealed_rows = await connection.fetchval(_SEALED_ROWS, first_seq, last_seq, timeout=COUNT_TIMEOUT_S)
            sealed_changes = await connection.fetchval(_SEALED_CHANGES, first_seq, last_seq)
            (unsealed,) = await connection.fetch(_UNSEALED, last_seq)
            async for row in connection.cursor(_NODES, prefetch=NODES_PER_READ):
                verifier.add_node(row["index"], row["hash"])
            for row in await connection.fetch(_UNRECORDED):
                verifier.add_unrecorded(row["relation"], row["row_id"])
        return verifier.report(sealed_rows, Unsealed(*unsealed), sealed_changes)


class ChainVerifier:
    """Checks links in order and collects problems. Pure."""

    def __init__(
        self, kept_since: datetime, noted_head: tuple[int, str] | None, start: tuple[int, str] | None = None
    ) -> None:
        self._kept_since = kept_since
        self._noted = [each for each in (start, noted_head) if each]
        self._start = start
        self._first: Link | None = None
        self._last: Link | None = None
        self._links = 0
        self._rows = 0
        self._changes = 0
        self._nodes = CompactRange()
        self._problems: list[str] = []

    @property
    def first_link(self) -> int:
        """The number of the first link to check."""
        return self._start[0] if self._start else 1

    @property
    def sealed_range(self) -> tuple[int, int]:
        """The first and the last row number that the checked links must cover.

        Without a start they cover every number up to the last. The sequence gives none below 1, and a forged row may
        have one.
        """
        first_seq = self._first.first_seq if self._first and self._start else _SEQ_MIN
        return first_seq, self._last.last_seq if self._last else 0

    def add(self, link: Link) -> None:
        """Checks the next link."""
        last, number = self._last, link.link
        if last is None:
            self._first = link
            self._check_first(link)
        elif (number, link.first_seq, link.previous) != (last.link + 1, last.last_seq + 1, last.hash):
            self._add_problem(f"link {number} does not continue link {last.link}: links were removed or inserted")
        elif link.rows_total != last.rows_total + link.rows:
            self._add_problem(f"link {number} counts other rows than link {last.link}")
        if not link.hash_matches():
            self._add_problem(f"link {number} was changed")
        pruned = link.found_rows < link.rows and link.first_ts < self._kept_since
        if (link.found_rows, link.found_digest or b"") != (link.rows, link.digest) and not pruned:
            self._add_problem(f"rows of link {number} were changed, removed or inserted")
        if (link.found_changes, link.found_changes_digest) != (link.changes, link.changes_digest):
            self._add_problem(f"policy changes of link {number} were changed, removed or inserted")
        self._check_tree(link)
        for noted, noted_hash in self._noted:
            if number == noted and link.hash.hex() != noted_hash:
                self._add_problem(f"link {number} differs from the noted one")
        self._last = link
        self._links += 1
        self._rows += link.found_rows
        self._changes += link.found_changes

    def add_node(self, index: int, node: bytes) -> None:
        """Adds the next stored node of the tree."""
        if index != self._nodes.size >> NODE_HEIGHT:
            self._add_problem(f"node {index} of the tree does not follow the one before: nodes were changed")
        self._nodes.append(node, NODE_HEIGHT)

    def add_unrecorded(self, table: str, row_id: int) -> None:
        """A row of a policy differs from its last recorded change."""
        self._add_problem(
            f"row {row_id} of {table} differs from its last policy change: it was changed without a trigger"
        )

    def report(self, sealed_rows: int, unsealed: Unsealed, sealed_changes: int = 0) -> ChainReport:
        """Returns the report after the last link.

        `sealed_rows` and `sealed_changes` are the rows and changes whose numbers are in `sealed_range`.
        """
        last = self._last
        if sealed_changes != self._changes:
            self._add_problem(
                f"{sealed_changes} policy changes have numbers of sealed ones, but the links have {self._changes}: "
                "changes were inserted"
            )
        if sealed_rows != self._rows:
            self._add_problem(
                f"{sealed_rows} rows have numbers of sealed rows, but the links have {self._rows}: rows were inserted"
            )
        for noted, _ in self._noted:
            if last is None or last.link < noted:
                self._add_problem(f"the chain ends before link {noted}, which was noted")
        tree = _tree_of(last) or CompactRange()
        stored = tree.size >> NODE_HEIGHT
        if (self._nodes.size >> NODE_HEIGHT, self._nodes.peaks) != (stored, tree.peaks[: stored.bit_count()]):
            self._add_problem("the stored nodes of the tree are not those of its last link: they were changed")
        head = (
            ChainHead(last.link, last.hash.hex(), last.rows_total, last.sealed_at, tree.size, tree.root())
            if last
            else None
        )
        return ChainReport(self._links, self._rows, head, unsealed, tuple(self._problems), self._changes)

    def _check_first(self, link: Link) -> None:
        if self._start and link.link != self._start[0]:
            self._add_problem(f"link {self._start[0]}, which was noted, is not in the chain any more")
        if link.link == 1 and (link.first_seq, link.previous, link.rows_total) != (1, b"", link.rows):
            self._add_problem("link 1 is not the beginning of a chain")

    def _check_tree(self, link: Link) -> None:
        """The tree grows by the rows of the link. The rows before the first link, and pruned rows, are unknown."""
        before, after = _tree_of(self._last) if self._last else None, _tree_of(link)
        if link.link == 1 or (self._last and self._last.tree_size is None):
            before = CompactRange()
        leaves = link.found_leaves or []
        if link.tree_size is None:
            if self._last and self._last.tree_size is not None:
                self._add_problem(f"link {link.link} has no tree")
        elif after is None:
            self._add_problem(f"the tree of link {link.link} was changed")
        elif before and len(leaves) == link.rows + link.changes:
            for leaf in leaves:
                before.append(leaf)
            if before != after:
                self._add_problem(f"the tree of link {link.link} is not that of its rows")

    def _add_problem(self, sentence: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(sentence)


_HEAD = """
SELECT link, encode(hash, 'hex'), rows_total, sealed_at, coalesce(tree_size, 0), coalesce(tree_peaks, '')
FROM gateway.audit_chain ORDER BY link DESC LIMIT 1
"""

_CONTAINS = """
SELECT EXISTS (SELECT FROM gateway.audit_chain WHERE link = $1 AND hash = $2)
    OR coalesce((SELECT min(link) > $1 FROM gateway.audit_chain), false)
"""

# OFFSET 0 makes PostgreSQL read the links in order instead of sorting the digests of all of them, and each row once for
# what audit_digest and audit_leaves return. Only the leaves of a link with changes need both tables.
_LINKS = """
SELECT c.*, d.rows AS found_rows, d.digest AS found_digest, p.rows AS found_changes, p.digest AS found_changes_digest,
    CASE WHEN c.changes = 0 THEN d.leaves
        ELSE gateway.audit_leaves(c.first_seq, c.last_seq, c.first_ts, c.last_ts) END AS found_leaves
FROM (SELECT * FROM gateway.audit_chain WHERE link >= $1 ORDER BY link OFFSET 0) c,
    LATERAL (
        SELECT count(*) AS rows,
            sha256(string_agg(sha256(content), '' ORDER BY seq, request_id COLLATE "C", ts)) AS digest,
            array_agg(sha256('\\x00'::bytea || content) ORDER BY seq, request_id COLLATE "C", ts) AS leaves
        FROM (
            SELECT seq, request_id, ts, convert_to(content, 'UTF8') AS content
            FROM gateway.audit_texts(c.first_seq, c.last_seq, c.first_ts, c.last_ts) OFFSET 0
        ) texts
    ) d,
    gateway.changes_digest(c.first_seq, c.last_seq) p
ORDER BY c.link
"""

_NODES = "SELECT index, hash FROM gateway.audit_tree ORDER BY index"

_SEALED_ROWS = "SELECT count(*) FROM gateway.audit_log WHERE seq BETWEEN $1 AND $2"

_SEALED_CHANGES = "SELECT count(*) FROM gateway.policy_changes WHERE seq BETWEEN $1 AND $2"

_UNRECORDED = "SELECT relation, row_id FROM gateway.unrecorded_changes()"

_UNSEALED = """
SELECT count(*), min(ts) FROM (
    SELECT ts FROM gateway.audit_log WHERE seq > $1 UNION ALL SELECT ts FROM gateway.policy_changes WHERE seq > $1
) unsealed
"""


def _tree_of(link: Link | None) -> CompactRange | None:
    """The tree after a link, None without one, or when its columns contradict each other."""
    if link is None or link.tree_size is None or link.tree_peaks is None:
        return None
    try:
        return CompactRange.from_bytes(link.tree_size, link.tree_peaks)
    except ValueError:
        return None


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
