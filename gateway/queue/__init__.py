"""The queue: which request gets the next slot of a replica. `port.py` defines it, `redis/` implements it.

The scripts of `gateway.quota.redis` include its steps, so that one call decides on limits and slots. The queue knows
replicas, tenants, keys, tokens and time. It knows no HTTP, no limits and no budgets.
"""
