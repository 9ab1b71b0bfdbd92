"""The queue: which request gets the next slot of a replica. `port.py` defines it, `redis/` implements it.

No service uses it yet: requests wait in the line of Ollama. It knows replicas,
tenants, keys, tokens and time. It knows no HTTP, no limits and no budgets.
"""
