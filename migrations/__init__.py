"""The database schema, as Alembic revisions that run plain SQL files. Applied by `ops.database.migrate`."""
