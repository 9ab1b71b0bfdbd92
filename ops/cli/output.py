"""Prints the results of commands as JSON, and renders values as text."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

# Characters that JSON does not escape: other controls, and marks without width or that change the writing direction.
_INVISIBLE = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def print_json(document: Any) -> None:
    """Prints one JSON document; times are ISO 8601 in UTC."""
    click.echo(json_text(document, indent=2 if sys.stdout.isatty() else None))


def json_text(document: Any, indent: int | None = None) -> str:
    """The document as JSON. Characters that a terminal would interpret or hide are escaped."""
    text = json.dumps(document, ensure_ascii=False, default=_jsonable, indent=indent)
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def console(width: int | None = None) -> Console:
    """A console on the current stdout, without markup and highlighting, and without colours if NO_COLOR is set."""
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def text(value: object) -> str:
    """The text of a cell: `-` for None, grouped thousands, times in UTC to the second, visible control characters."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case list() | tuple() | set() | frozenset():
            return ", ".join(map(text, value)) or "-"
        case _:
            return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def iso(time: datetime | None) -> str | None:
    """ISO 8601 in UTC, None for None."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def bar(value: int, value_max: int, width: int = 30) -> Text:
    """A horizontal bar; `value_max` fills all `width` cells."""
    cells = value * width / value_max if value_max else 0
    whole = int(cells)
    eighths = " ▏▎▍▌▋▊▉"[int((cells - whole) * 8)].strip()
    return Text("█" * whole + eighths, style="cyan", no_wrap=True)


def _jsonable(value: object) -> object:
    if isinstance(value, datetime):
        return iso(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
