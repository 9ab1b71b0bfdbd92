"""Prompts and answers of keys created with `--log-prompts`, on their way into PostgreSQL."""
