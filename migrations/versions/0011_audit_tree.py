"""A Merkle tree over the sealed rows, which proves offline that one row is in the log of a signed checkpoint."""

from ops.database.migrate import run_sql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds the tree, which begins with the next link. Existing links keep their hashes."""
    run_sql("0011_audit_tree.up.sql")


def downgrade() -> None:
    """Drops the tree, and begins a new chain that seals all rows without it."""
    run_sql("0011_audit_tree.down.sql")
