"""Coding agents, one file each: the settings and the command line with which one is run without a terminal."""
