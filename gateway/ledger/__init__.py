"""The way out of a request: the outbox, and the ledger in PostgreSQL."""
