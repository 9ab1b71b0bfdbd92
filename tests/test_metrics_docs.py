"""docs/observability.md names every metric of the services, and no other."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from gateway.metrics.registry import REGISTRY

PAGE = (Path(__file__).parents[1] / "docs/observability.md").read_text(encoding="utf-8")
MODULES = (
    "gateway.metrics.process",
    "gateway.metrics.stores",
    "gateway.metrics.outbox",
    "gateway.metrics.tracing",
    "authz.metrics",
    "meter.metrics",
    "ops.control.metrics",
    "ops.control.queue_metrics",
)
_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\| \S.*\|$", re.MULTILINE)


def documented() -> dict[str, str]:
    """The type of every documented metric, by its name."""
    rows = _ROW.findall(PAGE)
    assert len({name for name, _, _ in rows}) == len(rows)
    return {name: kind for name, kind, _ in rows}


def defined() -> dict[str, str]:
    """The type of every metric in the registry, by the name that a query uses."""
    for module in MODULES:
        importlib.import_module(module)
    return {f.name + ("_total" if f.type == "counter" else ""): f.type for f in REGISTRY.collect()}


def test_every_metric_is_documented_with_its_type_and_every_documented_metric_exists() -> None:
    assert documented() == defined()


def test_every_module_of_metrics_is_checked() -> None:
    root = Path(__file__).parents[1]
    sources = [path for package in ("gateway", "authz", "meter", "ops") for path in (root / package).rglob("*.py")]
    definitions = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in sources
        if re.search(r"^\w+ = (Counter|Gauge|Histogram)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert definitions == set(MODULES)
