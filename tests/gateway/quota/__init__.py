"""The quota: its model in memory, and the real one on Redis servers that the tests start."""
