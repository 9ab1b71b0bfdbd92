"""The generated part of docs/performance.md, and its plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench import plots, table
from bench.sides import envoy
from bench.sides.upstream import ROOT

PAGE = ROOT / "docs/performance.md"
FOLDER = ROOT / "docs/performance"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def write(document: Mapping[str, Any]) -> None:
    """Replaces the generated part of the page, its plots and the document that they come from."""
    FOLDER.mkdir(exist_ok=True)
    for name, svg in charts(document).items():
        (FOLDER / name).write_text(svg, encoding="utf-8")
    (FOLDER / "measurements.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), generated(document)), encoding="utf-8")


def replaced(text: str, part: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with `part` between the markers. Raises ValueError without markers."""
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{part}\n{end}{after}"


def generated(document: Mapping[str, Any]) -> str:
    """The Markdown of a document."""
    images = [f"![{_title(svg)}](performance/{name})" for name, svg in charts(document).items()]
    parts = [
        "\n".join(f"- {fact}" for fact in table.setup(document)),
        table.markdown(*table.headline(document)),
        *images,
        table.markdown(*table.measurements(document)),
        table.markdown(*table.memory(document)),
        "\n".join(f"- {workload['name']}: {workload['title']}" for workload in document["workloads"]),
    ]
    return "\n\n".join(parts)


def charts(document: Mapping[str, Any]) -> dict[str, str]:
    """The plots by the name of their file."""
    by_name = {workload["name"]: workload["sides"] for workload in document["workloads"]}
    small = by_name["W1"]
    rates = [(side, {side: values["per_s_ratio"] or 0.0}) for side, values in small.items() if side != "direct"]
    chunks = [
        (f"{side}, {name.removeprefix('W2/')} streams", _multiples(values["cpu_us"], sides))
        for name, sides in by_name.items()
        if name.startswith("W2/")
        for side, values in sides.items()
        if values["cpu_us"]
    ]
    requests = [(side, _multiples(values["cpu_us"], small)) for side, values in small.items() if values["cpu_us"]]
    return {
        "requests.svg": plots.bars("W1: requests/s, plain Envoy = 1", rates),
        "request-cpu.svg": plots.bars("W1: CPU time per request by process, plain Envoy = 1", requests),
        "chunk-cpu.svg": plots.bars("W2: CPU time per chunk by process, plain Envoy = 1", chunks),
    }


def _multiples(cpu_us: Mapping[str, float], sides: Mapping[str, Any]) -> dict[str, float]:
    plain_us = sides[envoy.NAME]["own_cpu_us"] or 1.0
    return {name: value / plain_us for name, value in sorted(cpu_us.items(), key=lambda item: -item[1])}


def _title(svg: str) -> str:
    return svg.partition("<title>")[2].partition("</title>")[0]
