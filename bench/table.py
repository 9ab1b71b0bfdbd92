"""The document as tables for the terminal and as Markdown, from the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.sides.upstream import NAME as DIRECT

Row = list[str]

_COLUMNS = ["workload", "side", "per s", "÷ Envoy", "p50 ms", "p99 ms"]
_COLUMNS += ["own CPU µs", "own ÷ Envoy", "CPU µs by process", "errors"]
_LEFT = {"workload", "side", "CPU µs by process", "comparison", "situation", "weights", "callers", "answers"}


def headline(document: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """The header and the rows of the comparisons, one column for each side."""
    sides = list(document["headline"])
    names = dict.fromkeys(name for values in document["headline"].values() for name in values)
    rows = [[name, *(_number(document["headline"][side].get(name)) for side in sides)] for name in names]
    return ["comparison", *sides], rows


def measurements(document: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """The header and the rows of all measurements, one for each workload and side."""
    rows = [
        _measurement(workload, side, values)
        for workload in document["workloads"]
        for side, values in workload["sides"].items()
    ]
    return _COLUMNS, rows


def memory(document: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """The header and the rows of the memory after the first round of the most streams, one for each side.

    Without streams it is that after the first workload.
    """
    workloads = document["workloads"]
    last = [*workloads[:1], *(workload for workload in workloads if workload["name"].startswith("W2/"))][-1]
    measured = {side: values["pss_mb"] for side, values in last["sides"].items() if values["pss_mb"]}
    rows = [[side, f"{sum(pss.values()):,.0f}", _by_process(pss)] for side, pss in measured.items()]
    return ["side", "PSS MB", "PSS MB by process"], rows


def setup(document: Mapping[str, Any]) -> Iterator[str]:
    """The conditions of the run, one sentence each."""
    facts = document["setup"]
    yield (
        f"{facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}, Python {facts['python']}, {facts['date']}."
    )
    yield (
        f"{facts['rounds']} rounds by turns, medians; the load generator and the upstream share the cores; "
        f"{facts['workers']} workers of each service; took {facts['took_s']:.0f} s. "
        f"The load average before the run was {facts['load_average']}."
    )
    if facts["load_average"] > facts["cores"] / 2:
        yield "Other programs used the machine: do not compare these values with those of another run."
    yield ("Revisions: " + ", ".join(f"{side} {revision}" for side, revision in facts["revisions"].items()) + ".")
    yield "Settings of the gateway: " + ", ".join(f"{name}={value}" for name, value in facts["settings"].items()) + "."
    yield "Only in W5: " + ", ".join(f"{name}={value}" for name, value in facts["settings_w5"].items()) + "."
    for workload in document["workloads"]:
        direct = workload["sides"].get(DIRECT)
        if direct and workload["name"] == "W1":
            yield (
                f"In W1 on the direct connection, the load generator used {direct['generator_cpu_us']} µs and the "
                f"upstream {direct['upstream_cpu_us']} µs of CPU time per request."
            )
        if direct and direct["errors"]:
            yield f"{workload['name']} is not valid: the direct connection had errors too, as on a busy machine."
    for side, reason in facts["skipped"].items():
        yield f"Not measured: {side} ({reason})."


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """A table for the terminal."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        left = column in _LEFT or column == "PSS MB by process"
        shown.add_column(column, justify="left" if left else "right", no_wrap=not left)
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---" if column in _LEFT else "---:" for column in columns], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _measurement(workload: Mapping[str, Any], side: str, values: Mapping[str, Any]) -> Row:
    flood = ", ".join(f"{per_s:,.0f}/s {status}" for status, per_s in values["flood_per_s"].items())
    return [
        workload["name"],
        side,
        _number(values["per_s"]),
        _number(values["per_s_ratio"]),
        _milliseconds(values["p50_us"]),
        _milliseconds(values["p99_us"]),
        _number(values["own_cpu_us"] or None),
        _number(values["cpu_ratio"]),
        _by_process(values["cpu_us"]) + (f"; flood {flood}" if flood else ""),
        f"{values['errors']:,}",
    ]


def _by_process(values: Mapping[str, float]) -> str:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value:,.0f}" for name, value in ordered)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _milliseconds(value_us: float | None) -> str:
    return "-" if value_us is None else _number(value_us / 1000)


def print_all(document: Mapping[str, Any], console: Console) -> None:
    """Prints the conditions and all tables."""
    for fact in setup(document):
        console.print(fact)
    console.print(rich_table("Compared", *headline(document)))
    console.print(rich_table("Measured", *measurements(document)))
    console.print(rich_table("Memory", *memory(document)))
    for workload in document["workloads"]:
        console.print(f"{workload['name']}: {workload['title']}")
