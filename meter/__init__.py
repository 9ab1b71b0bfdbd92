"""The meter: rewrites requests to their grants, decodes and counts answers, and settles what was used.

No decision about who may do what belongs here.
"""
