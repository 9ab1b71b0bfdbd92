"""Alembic's entry: runs the revisions on the connection that `ops.migrate` hands over, inside its transaction."""

from alembic import context

from ops.migrate import VERSION_SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema=VERSION_SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
