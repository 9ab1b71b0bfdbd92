"""Suggestions for mistyped commands and stray arguments. Pure, apart from click's parser."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import rich_click as click

_SIMILARITY_MIN = 0.6


def similar_commands(typed: str, commands: Sequence[str]) -> list[str]:
    """The commands that may be meant, the most likely first; a part of a name counts, such as `usage`."""
    near = get_close_matches(typed, commands, n=3, cutoff=_SIMILARITY_MIN)
    words = [name for name in commands if set(name.split("-")) & {typed, f"{typed}s", typed.removesuffix("s")}]
    return list(dict.fromkeys([*(near[:1]), *words, *near]))[:4]


def unknown_command(typed: str, commands: Sequence[str]) -> str:
    """The error for an unknown command."""
    if names := similar_commands(typed, commands):
        return f"No such command {typed!r}. Did you mean {' or '.join(names)}?"
    return f"No such command {typed!r}."


def stray_argument(error: click.MissingParameter, arguments: Sequence[str]) -> str | None:
    """The error for a positional argument where a required option is missing; None if there is no such argument."""
    option = error.param
    if error.ctx is None or not isinstance(option, click.Option):
        return None
    _, stray, _ = error.ctx.command.make_parser(error.ctx).parse_args(list(arguments))
    if not stray:
        return None
    return f"Unexpected argument {stray[0]!r}. Did you mean {option.opts[-1]} {stray[0]}?"
