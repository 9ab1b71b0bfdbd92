"""A key is a secret that draws on an account, which has the limits, budgets and usage."""

from ops.database.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Gives every key an account: its own, or that of the last key that rotation made in its place."""
    run_sql("0005_accounts.up.sql")


def downgrade() -> None:
    """Gives every key its own policy again. Its counters then begin at zero."""
    run_sql("0005_accounts.down.sql")
