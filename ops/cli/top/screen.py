"""Renders one document of `top` for a terminal of a given size. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ops.cli.output import text
from ops.cli.table import Column, fitted_table

KEYS = "q quits"
# Lines of a section besides its rows: the blank line before it, the header and the rule below it.
_SECTION_LINES = 3
_BAR_WIDTH = 10

_BACKENDS = (
    Column("backend"),
    Column("replica", rank=2),
    Column("slots", right=True),
    Column("running", right=True),
    Column("waiting", right=True),
    Column("oldest s", right=True, rank=3),
    Column("answers", rank=1),
    Column("version", rank=4),
)
_TENANTS = (
    Column("tenant"),
    Column("weight", right=True, rank=2),
    Column("running", right=True),
    Column("waiting", right=True),
    Column("oldest s", right=True, rank=1),
    Column("tokens/s", right=True),
)
_BUDGETS = (
    Column("budget of"),
    Column("period"),
    Column("limit", right=True, rank=1),
    Column("used", right=True),
    Column("reserved", right=True, rank=2),
    Column("full", right=True),
    Column("", rank=3),
)


def screen(document: Mapping[str, Any], width: int, height: int) -> RenderableType:
    """The document in at most `height` lines of at most `width` columns.

    Columns that do not fit are left out, as in every table. Sections share the lines; the rows that do not fit are
    counted.
    """
    head = _head(document, width)
    sections = [
        (_BACKENDS, _backend_rows(document)),
        (_TENANTS, _tenant_rows(document)),
        (_BUDGETS, _budget_rows(document)),
        (_denial_columns(document), _denial_rows(document)),
    ]
    sections = [section for section in sections if section[1]]
    lines = height - len(head) - _SECTION_LINES * len(sections)
    parts: list[RenderableType] = [*head]
    for (columns, rows), count in zip(sections, shares(lines, [len(rows) for _, rows in sections]), strict=True):
        shown = rows if count >= len(rows) else rows[: max(count - 1, 0)]
        parts += ["", fitted_table(columns, shown, width)]
        if len(shown) < len(rows) and count > 0:
            parts.append(_line(f"… {len(rows) - len(shown)} more", width, "dim"))
    return Group(*parts)


def shares(lines: int, wanted: Sequence[int]) -> list[int]:
    """Divides `lines` fairly: no section gets more than it wants, and small ones get all that they want."""
    given = [0] * len(wanted)
    left = max(lines, 0)
    while left and (open_ones := [number for number, want in enumerate(wanted) if given[number] < want]):
        for number in open_ones[:left]:
            given[number] += 1
        left -= min(left, len(open_ones))
    return given


def _head(document: Mapping[str, Any], width: int) -> list[Text]:
    requests = document["requests"]
    oldest = requests["oldest_wait_ms"]
    waiting = f"{text(requests['waiting'])} waiting" + (f", the oldest for {oldest / 1000:.1f} s" if oldest else "")
    lines = [
        _line(f"{document['time'][11:19]} UTC, rates over {document['interval_s']:.1f} s; {KEYS}", width, "dim"),
        _line(
            f"requests  {text(requests['running'])} running, {waiting}, {requests['per_second']:.1f} per second",
            width,
            "bold",
        ),
        _line(f"tokens    {document['tokens_per_second']:,.1f} per second", width, "bold"),
    ]
    if not document["processes"]:
        lines.append(_line("no metrics: no listener of a service answers; --metrics names them", width, "yellow"))
    return lines + [_line(each, width, "yellow") for each in document["unavailable"]]


def _backend_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            backend["name"],
            replica["url"],
            replica["slots"],
            replica["running"],
            backend["waiting"],
            _seconds(backend["oldest_wait_ms"]),
            _answers(backend, replica),
            backend["version"],
        )
        for backend in document["backends"]
        for replica in backend["replicas"]
    ]


def _answers(backend: Mapping[str, Any], replica: Mapping[str, Any]) -> object:
    """Whether discovery has an answer of the backend, unless the queue grants no slot of the replica."""
    if replica["suspended"]:
        return Text("suspended", style="red")
    return backend["answers"] or Text("no", style="red")


def _tenant_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            row["tenant"],
            row["weight"],
            row["running"],
            row["waiting"],
            _seconds(row["oldest_wait_ms"]),
            f"{row['tokens_per_second']:,.1f}",
        )
        for row in document["tenants"]
    ]


def _budget_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for budget in document["budgets"] or ():
        share = (budget["used"] + (budget["reserved"] or 0)) / budget["limit"] if budget["limit"] else 1.0
        style = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
        cells = round(min(share, 1.0) * _BAR_WIDTH)
        rows.append(
            (
                f"tenant {budget['tenant']}" if budget["scope"] == "tenant" else f"key {budget['prefix']}",
                budget["period"],
                budget["limit"],
                budget["used"],
                budget["reserved"],
                Text(f"{share:.0%}", style=style),
                Text("█" * cells + "░" * (_BAR_WIDTH - cells), style=style),
            )
        )
    return rows


def _denial_columns(document: Mapping[str, Any]) -> tuple[Column, ...]:
    window = f"last {document['denials_window_s']:.0f} s"
    return Column("denials"), Column(window, right=True), Column("since start", right=True)


def _denial_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [(each["code"], each["recent"], each["total"]) for each in document["denials"]]


def _line(content: str, width: int, style: str) -> Text:
    line = Text(text(content), style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def _seconds(wait_ms: int | None) -> str:
    return "-" if wait_ms is None else f"{wait_ms / 1000:.1f}"
