from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ops.merkle.tree import EMPTY_ROOT, CompactRange, inclusion_path, leaf_hash, node_hash, root_of_path, split

# The leaves and the roots of RFC 6962's reference implementation, which RFC 9162 hashes alike.
LEAVES = [bytes.fromhex(each) for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
}


def root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, as the text defines it."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    middle = split(0, len(leaves))
    return node_hash(root(leaves[:middle]), root(leaves[middle:]))


def test_roots_are_those_of_the_reference_implementation() -> None:
    tree = CompactRange()
    for size, leaf in enumerate([*LEAVES, b""]):
        if size in ROOTS:
            assert tree.root().hex() == ROOTS[size]
        tree.append(leaf_hash(leaf))


@given(st.integers(0, 200), st.data())
def test_a_compact_range_is_the_tree_and_a_path_leads_to_its_root(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    tree = CompactRange()
    for leaf in leaves:
        tree.append(leaf)
    assert tree.root() == root(leaves)
    assert CompactRange.from_bytes(size, tree.to_bytes()) == tree
    assert all(root(leaves[start:end]) == peak for start, end, peak in tree.subtrees())
    if size:
        index = data.draw(st.integers(0, size - 1))
        path = inclusion_path(index, size, lambda start, end: root(leaves[start:end]))
        assert root_of_path(leaves[index], index, size, path) == tree.root()
        assert root_of_path(leaves[index], index, size, [*path, leaves[0]]) is None
        assert not path or root_of_path(leaves[index], index, size, path[:-1]) is None


def test_a_subtree_is_appended_like_its_leaves() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(12)]
    tree = CompactRange()
    for start in (0, 4, 8):
        tree.append(root(leaves[start : start + 4]), 2)
    assert (tree.size, tree.root()) == (12, root(leaves))
