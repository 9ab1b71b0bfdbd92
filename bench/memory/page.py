"""The results as tables for the terminal, and as the generated part of docs/memory.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from bench.page import replaced
from bench.sides.upstream import ROOT
from bench.table import Row, markdown, rich_table

PAGE = ROOT / "docs/memory.md"
STORED = ROOT / "docs/memory/measurements.json"
BEGIN, END = "<!-- memory: begin -->", "<!-- memory: end -->"
_STORES = ("redis", "postgres")
Document = Mapping[str, Any]


def write(document: Document) -> None:
    """Replaces the tables of the page, and the document that they come from."""
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(text, generated(document), BEGIN, END), encoding="utf-8")


def print_all(document: Document, console: Console) -> None:
    """Prints the conditions and the tables."""
    console.print(conditions(document))
    console.print(rich_table("PSS in MB", *sizes(document)))
    console.print(rich_table("Growth", *growth(document)))


def generated(document: Document) -> str:
    """The tables of a document in Markdown, with their conditions."""
    return "\n\n".join([markdown(*sizes(document)), markdown(*growth(document)), conditions(document)])


def sizes(document: Document) -> tuple[Row, list[Row]]:
    """The header and the rows of the memory in MB, one row for each step."""
    services = _services(document)
    rows = [
        [
            each["step"],
            f"{sum(size for name, size in each['pss_mb'].items() if name not in _STORES):.1f}",
            *(f"{each['pss_mb'][name]:.1f}" for name in services),
        ]
        for each in document["steps"]
    ]
    return ["situation", "without stores", *services], rows


def growth(document: Document) -> tuple[Row, list[Row]]:
    """The header and the rows of what requests and idle streams add to each service."""
    steps = document["steps"]
    requests = [each for each in steps if "requests" in each]
    streams = [each for each in steps if "streams" in each]
    services = _services(document)
    # The first requests fill caches and buffers.
    first, last = requests[len(requests) > 2], requests[-1]
    spans = [
        (f"each request from {first['requests']:,} to {last['requests']:,}, bytes", first, last, "requests", 1),
        ("each idle stream, KiB", {**last, "streams": 0}, streams[0], "streams", 1024),
    ]
    rows = []
    for label, before, after, counted, unit_bytes in spans:
        scale = 1e6 / unit_bytes / (after[counted] - before[counted])
        added = {name: (after["pss_mb"][name] - before["pss_mb"][name]) * scale for name in services}
        rows.append([label, *(f"{added[name]:.1f}" for name in services)])
    return ["situation", *services], rows


def conditions(document: Document) -> str:
    """The conditions of the run, in one paragraph."""
    facts = document["setup"]
    return (
        f"{facts['date']}, {facts['cores']} cores with a load average of {facts['load_average']} before, Python "
        f"{facts['python']}, {facts['workers']} workers of each service, {facts['revision']}; took {facts['took_s']} s."
    )


def _services(document: Document) -> list[str]:
    return sorted(document["steps"][0]["pss_mb"], key=lambda name: (name in _STORES, name))
