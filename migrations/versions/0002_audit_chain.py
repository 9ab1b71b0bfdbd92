"""The audit chain: detects changes to the audit log that bypass its triggers."""

from ops.database.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Chains every row inserted from now on, by this or an older version of the gateway."""
    run_sql("0002_audit_chain.up.sql")


def downgrade() -> None:
    """Drops the chain and keeps the rows."""
    run_sql("0002_audit_chain.down.sql")
