"""The quota: one atomic admission, one idempotent settlement. `port.py` defines it, `redis/` implements it.

It knows tenants, keys, tokens and time. It knows no HTTP and no SQL.
"""
