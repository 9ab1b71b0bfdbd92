"""Every change of a tenant, a key or a policy leaves a row that the audit chain seals."""

from ops.database.migrate import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Creates the table and its triggers, and records the current policies as its first rows."""
    run_sql("0008_policy_changes.up.sql")


def downgrade() -> None:
    """Drops the changes, and begins a new chain that seals the audit rows alone."""
    run_sql("0008_policy_changes.down.sql")
