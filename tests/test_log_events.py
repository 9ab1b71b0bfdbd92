"""docs/troubleshooting.md names the events that the services log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

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


def calls() -> Iterator[ast.Call]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield node


def logged(*levels: str) -> set[str]:
    """The events that the code logs with one of these methods of `log`."""
    found = set()
    for call in calls():
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
            ) if level in levels:
                found.add(event)
    return found


def logged_by_loops() -> set[str]:
    """The events that `gateway.loops` logs when a step or a call fails."""
    found = set()
    for call in calls():
        for keyword in call.keywords:
            match keyword:
                case ast.keyword(arg="on_error", value=ast.Constant(value=str(event))):
                    found.add(event)
    return found


def test_every_documented_event_is_logged() -> None:
    kinds = set(get_args(get_type_hints(Finding)["kind"]))
    assert documented() - logged(*LEVELS) - logged_by_loops() - kinds == set()


def test_every_error_is_documented() -> None:
    errors = logged(*ERRORS)
    assert {"entry_rejected", "process_failed"} <= errors
    assert errors - documented() == set()
