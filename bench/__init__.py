"""Measures the cost of the gateway on the whole stack, next to the same requests without it.

Only measurements of one run are comparable. Between machines, compare their ratios and not the values.
"""
