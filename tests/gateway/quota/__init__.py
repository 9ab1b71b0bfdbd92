"""The quota, in memory and on real Redis servers that the tests start."""
