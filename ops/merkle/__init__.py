"""Merkle trees, which prove with a few hashes that a leaf is one of many."""
