"""What the gateway costs: measured on the whole stack, always beside the same requests without it.

LimitStatus of one run belong together. Compare their ratios between machines, not the figures themselves.
"""
