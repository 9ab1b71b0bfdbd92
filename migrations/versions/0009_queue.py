"""Tenants have a weight and keys a priority in the queue, and audit rows the time that a request waited there."""

from ops.database.migrate import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Adds the columns: every tenant has the weight 1, every key is interactive, and no earlier row waited.

    The audit chain covers the time in the queue.
    """
    run_sql("0009_queue.up.sql")


def downgrade() -> None:
    """Drops the columns, and begins a new chain that seals all rows without the time in the queue."""
    run_sql("0009_queue.down.sql")
