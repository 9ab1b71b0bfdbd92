"""Reads a key that an operator types or pipes."""

from __future__ import annotations

import sys

import rich_click as click


def read_typed_key() -> str:
    """The first line of standard input, or of a prompt on a terminal, without surrounding blanks."""
    typed = click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    return str(typed).strip()
