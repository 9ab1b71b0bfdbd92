"""Signed checkpoints of the audit chain: text that proves, outside the database, which link was the last one then."""
