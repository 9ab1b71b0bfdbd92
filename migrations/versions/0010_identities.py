"""Accounts have the public keys of Ollama installations as further credentials."""

from ops.database.migrate import run_sql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds the table. Its changes are recorded and notified like those of keys."""
    run_sql("0010_identities.up.sql")


def downgrade() -> None:
    """Drops the table. The recorded changes of its rows stay."""
    run_sql("0010_identities.down.sql")
