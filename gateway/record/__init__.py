"""The records of one request: the grant that travels with it, and the ledger entry that remains of it."""
