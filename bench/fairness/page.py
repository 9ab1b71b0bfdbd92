"""The results as tables for the terminal, and as the generated part of docs/fair-share.md with its plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from bench import plots
from bench.page import replaced
from bench.sides.upstream import ROOT
from bench.table import Row, markdown, rich_table

PAGE = ROOT / "docs/fair-share.md"
FOLDER = ROOT / "docs/fair-share"
BEGIN, END = "<!-- fairness: begin -->", "<!-- fairness: end -->"
PLOTTED = "three-to-one"
_SITUATIONS = {
    "alone": "alone",
    "off": "next to Alice, without the queue",
    "on": "next to Alice, with the queue",
}
_SHORT = {"alone": "alone", "off": "Alice, without the queue", "on": "Alice, with the queue"}
Document = Mapping[str, Any]


def write(document: Document) -> None:
    """Replaces the tables of the page, its plots and the document that both come from.

    An experiment that the document does not have keeps its earlier result.
    """
    FOLDER.mkdir(exist_ok=True)
    stored = FOLDER / "measurements.json"
    earlier = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    whole = {**earlier, **document}
    stored.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for name, svg in charts(whole).items():
        (FOLDER / name).write_text(svg, encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(text, generated(whole), BEGIN, END), encoding="utf-8")


def print_all(document: Document, console: Console) -> None:
    """Prints the conditions and all tables."""
    for part in document:
        console.print(conditions(document[part]))
        for title, columns, rows in tables(document, part):
            console.print(rich_table(title, columns, rows))


def generated(document: Document) -> str:
    """The tables of a document in Markdown, with their conditions."""
    parts = []
    for part in filter(document.__contains__, _TABLES):
        for title, columns, rows in tables(document, part):
            parts += [f"{title}:", markdown(columns, rows)]
        parts.append(conditions(document[part]))
    return "\n\n".join(parts)


def tables(document: Document, part: str) -> Iterator[tuple[str, Row, list[Row]]]:
    """The title, the header and the rows of each table of an experiment."""
    return _TABLES[part](document[part]["result"])


def charts(document: Document) -> dict[str, str]:
    """The plots by the name of their file."""
    drawn = {}
    if "shares" in document:
        plotted = next(each for each in document["shares"]["result"] if each["name"] == PLOTTED)
        title = f"Output tokens of two tenants with weights {plotted['title']}"
        drawn["tokens.svg"] = plots.curves(title, plotted["seconds_at"], plotted["output_tokens_at"])
    if "neighbour" in document:
        times = document["neighbour"]["result"]["median_s"]
        rows = [(label, {"bob": times[situation]}) for situation, label in _SHORT.items()]
        drawn["waits.svg"] = plots.bars("Bob's chat of five tokens, seconds to the last byte (median)", rows)
    return drawn


def conditions(part: Document) -> str:
    """The conditions of an experiment, in one paragraph."""
    facts = part["setup"]
    return (
        f"{facts['date']}, {facts['cores']} cores with a load average of {facts['load_average']} before, Python "
        f"{facts['python']}, {facts['workers']} workers of each service; took {facts['took_s']} s."
    )


def _shares(result: Sequence[Document]) -> Iterator[tuple[str, Row, list[Row]]]:
    columns = ["weights", "tokens", "output tokens", "deviation", "of output", "slots busy", "Jain's index", "at once"]
    rows = [
        [
            each["title"],
            _colons(each["tokens"]),
            _colons(each["output_tokens"]),
            _percent(_largest(each["deviations"])),
            _percent(_largest(each["output_deviations"])),
            _percent(each["busy_share"]),
            f"{each['jain']:.5f}",
            str(each["most_at_once"]),
        ]
        for each in result
    ]
    requests, denied = (sum(each[name] for each in result) for name in ("requests", "denied"))
    title = f"Tenants that always wait, {result[0]['seconds']:.0f} s, {requests:,} requests, {denied} denied"
    yield title, columns, rows


def _neighbour(result: Document) -> Iterator[tuple[str, Row, list[Row]]]:
    rows = [
        [
            label,
            f"{result['median_s'][situation]:.2f}",
            ", ".join(f"{each:.2f}" for each in result["took_s"][situation]),
        ]
        for situation, label in _SITUATIONS.items()
    ]
    yield "Bob's chat", ["situation", "median s", "all s"], rows


def _crowd(result: Document) -> Iterator[tuple[str, Row, list[Row]]]:
    waiting, left = result["waiting"], result["hang_ups"]
    services = ["envoy", "authz", "redis"]
    rows = [
        ["memory of each caller, KiB", *(f"{waiting['kib_per_caller'][name]:.1f}" for name in services)],
        ["CPU time of all, % of a core", *(f"{100 * waiting['cpu_share'][name]:.1f}" for name in services)],
    ]
    yield f"{waiting['callers']:,} callers that wait at the same time", ["situation", *services], rows
    gap = waiting["gap_s"]
    rows = [["until the next request begins, ms", *(f"{1000 * value:.0f}" for value in gap.values())]]
    yield "How long a slot is free while they wait", ["situation", *gap], rows
    columns = ["callers", "answers", "requests", "rows", "rows of each", "runs of each", "at once", "slots after"]
    together = left["left"] + left["stayed"]
    rows = [
        [f"{waiting['callers']:,} wait", *_ends(waiting)],
        [f"{left['left']:,} of {together:,} leave", *_ends(left)],
    ]
    yield "How their requests end", columns, rows
    columns = ["callers", "left", "rows with 499 client_gone", "requests at the backend", "places free after, ms"]
    columns.append("of which in the gateway, ms")
    times = [round(1000 * left[name]) for name in ("freed_s", "freed_in_gateway_s")]
    numbers = [left["left"], left["gone_rows"], left["reached_backend"], *times]
    yield "Those that leave", columns, [[f"{together:,} wait", *(f"{number:,}" for number in numbers)]]


def _ends(each: Document) -> Row:
    return [
        ", ".join(f"{count:,} got {status}" for status, count in each["statuses"].items()),
        f"{each['sent']:,}",
        f"{each['rows']:,}",
        str(each["rows_per_request_max"]),
        str(each["runs_per_request_max"]),
        str(each["most_at_once"]),
        str(each["slots_usable"]),
    ]


_TABLES: dict[str, Callable[[Any], Iterator[tuple[str, Row, list[Row]]]]] = {
    "neighbour": _neighbour,
    "shares": _shares,
    "crowd": _crowd,
}


def _largest(deviations: Mapping[str, float]) -> float:
    return max(map(abs, deviations.values()))


def _colons(tokens: Mapping[str, float]) -> str:
    return " : ".join(f"{each:,.0f}" for each in tokens.values())


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
