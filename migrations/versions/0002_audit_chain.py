"""The audit chain: what was changed in the audit log behind its back can be noticed."""

from ops.database.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Chains every row that is inserted from now on, by whatever version of the gateway."""
    run_sql("0002_audit_chain.up.sql")


def downgrade() -> None:
    """Forgets the chain; rows stay."""
    run_sql("0002_audit_chain.down.sql")
