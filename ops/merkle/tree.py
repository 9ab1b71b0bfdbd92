"""The Merkle tree of RFC 9162, section 2.1: leaves, nodes, the root of a growing tree, and inclusion proofs. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

HASH_BYTES = 32
# PostgreSQL stores the nodes over 2**NODE_HEIGHT leaves, as the seal_audit_log of the migration writes them.
NODE_HEIGHT = 8
EMPTY_ROOT = hashlib.sha256(b"").digest()

Subtree = Callable[[int, int], bytes]
"""The root of the leaves from the first index up to, and without, the second one."""


def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node with these children."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(slots=True)
class CompactRange:
    """A tree that grows at its right end. `peaks` are the roots of its perfect subtrees, the largest first."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    @classmethod
    def from_bytes(cls, size: int, peaks: bytes) -> CompactRange:
        """Reads concatenated peaks. Raises ValueError when a tree of this size has another number of them."""
        if len(peaks) != HASH_BYTES * size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks")
        return cls(size, [peaks[start : start + HASH_BYTES] for start in range(0, len(peaks), HASH_BYTES)])

    def to_bytes(self) -> bytes:
        """The concatenated peaks."""
        return b"".join(self.peaks)

    def append(self, node: bytes, height: int = 0) -> None:
        """Appends a leaf, or a perfect subtree of 2**height leaves to a tree whose size is a multiple of that."""
        remaining = self.size >> height
        while remaining & 1:
            node = node_hash(self.peaks.pop(), node)
            remaining >>= 1
        self.peaks.append(node)
        self.size += 1 << height

    def root(self) -> bytes:
        """The hash of the whole tree."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def subtrees(self) -> Iterator[tuple[int, int, bytes]]:
        """The first leaf, the end and the root of each perfect subtree."""
        start = 0
        for peak in self.peaks:
            end = start + (1 << (self.size - start).bit_length() - 1)
            yield start, end, peak
            start = end


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The siblings from leaf `index` up to the root of a tree of `size` leaves (RFC 9162, section 2.1.3.1)."""
    start, end, path = 0, size, []
    while end - start > 1:
        middle = split(start, end)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    return path[::-1]


def root_of_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """The root that a path leads to (RFC 9162, section 2.1.3.2), None for a path of another length."""
    last, root = size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            root = node_hash(sibling, root)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        index, last = index >> 1, last >> 1
    return root if last == 0 else None


def split(start: int, end: int) -> int:
    """Where the left subtree of at least two leaves ends: it has the largest power of two of them."""
    return start + (1 << (end - start - 1).bit_length() - 1)
