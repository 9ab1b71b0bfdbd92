"""Tenants, keys, limits, budgets, revocations, audit log and prompt log."""

from ops.database.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates all types, tables, functions and triggers."""
    run_sql("0001_initial.up.sql")


def downgrade() -> None:
    """Drops all of them, including the rows."""
    run_sql("0001_initial.down.sql")
