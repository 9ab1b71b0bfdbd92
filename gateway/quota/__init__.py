"""The quota: one atomic admission, one idempotent settlement. `port.py` says what it does, the rest does it.

Knows tenants, keys, tokens and time; knows no HTTP, no models and no SQL.
"""
