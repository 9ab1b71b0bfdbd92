"""API keys: their format, their hashes, who owns them, and which of them this process has verified."""
