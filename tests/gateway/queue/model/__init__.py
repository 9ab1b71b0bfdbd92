"""The oracle of the queue: the rules of the Lua scripts in plain Python, as a second implementation of the port."""
