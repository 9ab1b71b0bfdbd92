"""How the memory of the gateway develops over many requests, and with many idle streams."""
