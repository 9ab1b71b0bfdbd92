"""Tenants and keys have their own maxima of a request's body and of its output."""

from ops.database.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the columns, empty: the defaults of the settings apply."""
    run_sql("0006_sizes.up.sql")


def downgrade() -> None:
    """Drops the columns and their values."""
    run_sql("0006_sizes.down.sql")
