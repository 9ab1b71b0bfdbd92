"""The audit chain is sealed after rows are inserted, and inserts take no lock."""

from ops.database.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Numbers every row, which rewrites the audit log, and begins a new chain that seals all of them."""
    run_sql("0004_audit_seal.up.sql")


def downgrade() -> None:
    """Begins a chain as in revision 0002 that does not cover the existing rows."""
    run_sql("0004_audit_seal.down.sql")
    run_sql("0002_audit_chain.up.sql")
