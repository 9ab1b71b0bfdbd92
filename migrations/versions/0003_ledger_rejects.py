"""Ledger entries that the audit log refuses are kept in a separate table."""

from ops.database.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Creates the table of rejected entries."""
    run_sql("0003_ledger_rejects.up.sql")


def downgrade() -> None:
    """Drops the table and the entries in it."""
    run_sql("0003_ledger_rejects.down.sql")
