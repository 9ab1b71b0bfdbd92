"""A pipelined client of Redis: every call of a process to a server goes through one connection."""
