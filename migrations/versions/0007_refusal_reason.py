"""Audit rows state why a key was refused."""

from ops.database.migrate import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds the column, empty, and covers it by the audit chain."""
    run_sql("0007_refusal_reason.up.sql")


def downgrade() -> None:
    """Drops the column, and begins a new chain that seals all rows without it."""
    run_sql("0007_refusal_reason.down.sql")
