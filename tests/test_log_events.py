"""docs/troubleshooting.md names the events that the services log."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

from ops.backends.findings import Finding

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
PACKAGES = ("gateway", "authz", "meter", "ops")
ERRORS = ("error", "exception")
LEVELS = (*ERRORS, "warning", "info", "debug")


def documented() -> set[str]:
    """The names in the first column of the table of events."""
    _, _, table = PAGE.partition("| event | meaning |\n")
    rows, _, _ = table.partition("\n\n")
    return {name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


class Events(NamedTuple):
    """The events in the code: by the method of `log` that logs them, and those of failures in `gateway.loops`."""

    logged: dict[str, set[str]]
    of_loops: set[str]


@cache
def events() -> Events:
    found = Events({level: set() for level in LEVELS}, set())
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    _note(node, found)
    return found


def _note(call: ast.Call, found: Events) -> None:
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
        ) if level in LEVELS:
            found.logged[level].add(event)
    for keyword in call.keywords:
        match keyword:
            case ast.keyword(arg="on_error", value=ast.Constant(value=str(event))):
                found.of_loops.add(event)


def test_every_documented_event_is_logged() -> None:
    kinds = set(get_args(get_type_hints(Finding)["kind"]))
    assert documented().difference(*events().logged.values(), events().of_loops, kinds) == set()


def test_every_error_is_documented() -> None:
    errors = set().union(*(events().logged[level] for level in ERRORS))
    assert {"entry_rejected", "process_failed"} <= errors
    assert errors - documented() == set()
