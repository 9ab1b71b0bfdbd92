"""Alembic's entry point: runs the revisions inside the transaction of the connection from `ops.database.migrate`."""

from alembic import context

from ops.database.revisions import VERSION_SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema=VERSION_SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
