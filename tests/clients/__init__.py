"""Runs published clients and coding agents against the gateway, and prints which of them can do what.

`make clients` installs them under `build/clients/` and runs `python -m tests.clients`. `cases.py` has the cases,
`python/`, `javascript/` and `agents/` one file per client, and `catalog.py` the list of clients.
"""
