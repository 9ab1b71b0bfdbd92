"""Reads the Merkle tree of the audit chain: makes the proof that a row is in the log of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.errors import GatewayError, NotFound
from gateway.stores.postgres import Database, PooledConnection
from ops.database.audit_chain import ChainHead
from ops.merkle.tree import NODE_HEIGHT, CompactRange, inclusion_path, leaf_hash, node_hash, root_of_path, split

BLOCK = 1 << NODE_HEIGHT


class AuditLogChanged(GatewayError):
    """The audit log differs from what was written to it."""


class RowUnproved(GatewayError):
    """The row is in no tree, or not in that of the checkpoint."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A row as the audit chain covers it, its position in the tree, and the siblings up to the root."""

    row: str
    index: int
    path: tuple[bytes, ...]


class AuditTree:
    """Makes proofs. They need the rows of at most 256 leaves next to the row, and no others."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prove(self, request_id: str, head: ChainHead) -> Inclusion:
        """Returns the proof for a request against the tree of `head`.

        Raises NotFound without a row, RowUnproved, AuditLogChanged if the log is not that of the checkpoint, and
        StoreUnavailable.
        """
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            row = await connection.fetchrow(_ROW, request_id)
            if row is None:
                raise NotFound(f"there is no audit row with the request id {request_id}")
            link = await connection.fetchrow(_LINK_OF, row["seq"])
            if link is None:
                raise RowUnproved("the row is not sealed yet; control seals it within a minute")
            if link["tree_size"] is None:
                raise RowUnproved("the row was sealed by a release without a Merkle tree")
            if link["tree_size"] > head.tree_size:
                raise RowUnproved("the row was sealed after the checkpoint; the next checkpoint has it")
            preceding = await connection.fetchval(_PRECEDING, link["first_seq"], row["seq"])
            index = link["tree_size"] - link["rows"] - link["changes"] + preceding
            nodes = await self._nodes(connection, index, head)
        try:
            path = inclusion_path(index, head.tree_size, nodes.subtree)
        except KeyError:
            raise RowUnproved("rows next to it were pruned, and the proof needs them") from None
        if root_of_path(leaf_hash(row["content"].encode()), index, head.tree_size, path) != head.tree_root:
            raise AuditLogChanged("the audit log is not the one of the checkpoint: rows before it were changed")
        return Inclusion(row["content"], index, tuple(path))

    async def _nodes(self, connection: PooledConnection, index: int, head: ChainHead) -> KnownNodes:
        """The nodes over whole blocks, the leaves of the row's block, and the peaks at the end of the tree."""
        nodes = KnownNodes()
        for number, node in await connection.fetch(_NODES, head.tree_size >> NODE_HEIGHT):
            nodes.add(number * BLOCK, (number + 1) * BLOCK, node)
        start = index // BLOCK * BLOCK
        for first, leaves in await connection.fetch(_LEAVES, start, min(start + BLOCK, head.tree_size)):
            for position, leaf in enumerate(leaves, first):
                nodes.add(position, position + 1, leaf)
        peaks = await connection.fetchval(_PEAKS, head.tree_size)
        if peaks is None:
            raise AuditLogChanged("the link of the checkpoint is not in the chain")
        for first, end, node in CompactRange.from_bytes(head.tree_size, peaks).subtrees():
            nodes.add(first, end, node)
        return nodes


@dataclass(slots=True)
class KnownNodes:
    """Nodes of a tree by their first leaf and the end of their leaves, and all that follow from them. Pure."""

    _nodes: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def add(self, start: int, end: int, node: bytes) -> None:
        """Adds a node."""
        self._nodes[start, end] = node

    def subtree(self, start: int, end: int) -> bytes:
        """See `merkle.Subtree`. Raises KeyError when the nodes do not suffice."""
        if (node := self._nodes.get((start, end))) is not None:
            return node
        if end - start < 2:
            raise KeyError(start)
        middle = split(start, end)
        return node_hash(self.subtree(start, middle), self.subtree(middle, end))


_ROW = """
SELECT t.seq, t.content FROM (SELECT seq, ts FROM gateway.audit_log WHERE request_id = $1 ORDER BY ts LIMIT 1) a,
    gateway.audit_texts(a.seq, a.seq, a.ts, a.ts) t
"""
_LINK_OF = """
SELECT first_seq, rows, changes, tree_size FROM gateway.audit_chain WHERE last_seq >= $1 ORDER BY link LIMIT 1
"""
_PRECEDING = """
SELECT (SELECT count(*) FROM gateway.audit_log WHERE seq >= $1 AND seq < $2)
    + (SELECT count(*) FROM gateway.policy_changes WHERE seq >= $1 AND seq < $2)
"""
_NODES = "SELECT index, hash FROM gateway.audit_tree WHERE index < $1"
# Links of which retention has removed rows are left out.
_LEAVES = """
SELECT tree_size - rows - changes, leaves
FROM gateway.audit_chain c, gateway.audit_leaves(c.first_seq, c.last_seq, c.first_ts, c.last_ts) leaves
WHERE tree_size > $1 AND tree_size - rows - changes < $2 AND cardinality(leaves) = rows + changes
"""
_PEAKS = "SELECT tree_peaks FROM gateway.audit_chain WHERE tree_size = $1 LIMIT 1"
