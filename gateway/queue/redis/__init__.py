"""The queue in Redis: Lua scripts, their keys and the encoding of their arguments."""
