"""Turns the chunks of an answer into its usage and its result. Pure."""
