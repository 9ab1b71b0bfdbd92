"""The panels of a Grafana dashboard, and the answers of Prometheus to their expressions. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_VARIABLE = re.compile(r"\$\{?(__rate_interval|__interval|__range)\b\}?")
_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Target:
    """One expression of a panel, and the template of the names of its series."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of type `kind`. Its place is in cells of the dashboard's grid, which has 24 columns."""

    title: str
    kind: str
    unit: str
    x: int
    y: int
    width: int
    height: int
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel: its name, and values by seconds since the start. A value is finite, and gaps have none."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The evaluated time, its step and the interval of the scrapes, in seconds."""

    start_s: float
    end_s: float
    step_s: int
    scrape_s: int


def read_panels(dashboard: Mapping[str, Any]) -> tuple[Panel, ...]:
    """The panels of a dashboard in their order, rows included."""
    return tuple(_read_panel(panel) for panel in dashboard["panels"])


def fill_variables(expression: str, window: Window) -> str:
    """Replaces Grafana's variables of time by their values.

    `$__rate_interval` has four scrapes at least.
    https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/#use-__rate_interval
    """
    values = {
        "__interval": window.step_s,
        "__rate_interval": max(window.step_s + window.scrape_s, 4 * window.scrape_s),
        "__range": math.ceil(window.end_s - window.start_s),
    }
    return _VARIABLE.sub(lambda match: f"{values[match[1]]}s", expression)


def read_series(matrix: Sequence[Mapping[str, Any]], legend: str, start_s: float) -> list[Series]:
    """The series of a result of `query_range`, sorted by name. Series without a finite value are left out.

    https://prometheus.io/docs/prometheus/latest/querying/api/#range-vectors
    """
    found = []
    for entry in matrix:
        values = ((time - start_s, float(value)) for time, value in entry["values"])
        points = tuple((time, value) for time, value in values if math.isfinite(value))
        if points:
            found.append(Series(_name(legend, entry["metric"]), points))
    return sorted(found, key=lambda series: series.name)


def _read_panel(panel: Mapping[str, Any]) -> Panel:
    grid = panel["gridPos"]
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
    targets = tuple(Target(target["expr"], target["legendFormat"]) for target in panel.get("targets", ()))
    return Panel(panel["title"], panel["type"], unit, grid["x"], grid["y"], grid["w"], grid["h"], targets)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return _LABEL.sub(lambda match: labels.get(match[1], ""), legend)
