"""Confirmation of changes that cannot be undone."""

from __future__ import annotations

import sys

import rich_click as click

from gateway.errors import GatewayError

yes_option = click.option("--yes", is_flag=True, help="Do not request a confirmation.")


def confirm(question: str, *, yes: bool, required: bool = False) -> None:
    """Requests a confirmation on a terminal unless `yes`. Raises GatewayError if the operator declines.

    A script cannot answer. It proceeds, or fails if the confirmation is `required`.
    """
    if yes or not (sys.stdin.isatty() or required):
        return
    if not sys.stdin.isatty():
        raise GatewayError("this cannot be undone; confirm it with --yes")
    if not click.confirm(question, err=True):
        raise GatewayError("nothing was changed")
