"""The queue: which request gets the next slot of a replica. `port.py` defines it, `redis/` implements it.

It knows replicas, tenants, keys, tokens and time. It knows no HTTP, no limits and no budgets.
"""
