"""Measures the cost of the gateway next to a direct connection, a plain Envoy and other gateways, by turns in one run.

Only measurements of one run are comparable. Between machines, compare their ratios and not the values.
"""
