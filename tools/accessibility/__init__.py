"""Checks the pages of the product with axe-core."""
