"""The alert rules and the dashboard read metrics and labels that exist, and docs/alerts.md names every alert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_metrics_docs import PAGE, documented
from tests.yaml_text import load_yaml

ROOT = Path(__file__).parents[1]
RULES: list[dict[str, Any]] = [
    rule for group in load_yaml((ROOT / "ops/prometheus/alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED_RULES = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARD: dict[str, Any] = json.loads((ROOT / "ops/grafana/dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TESTS: list[dict[str, Any]] = load_yaml((ROOT / "ops/prometheus/alerts_test.yaml").read_text())["tests"]
FAULTS = dict(re.findall(r"^\| ([^|`]+) \| `(Gateway\w+)` \|$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE))
# Labels of every target, and those of histograms, of Envoy and of Prometheus itself.
OTHER_LABELS = {
    "service",
    "instance",
    "le",
    "envoy_cluster_name",
    "envoy_response_code_class",
    "envoy_http_conn_manager_prefix",
    "alertname",
    "alertstate",
}
LONGEST_S = 60


def expressions() -> Iterator[str]:
    """The expressions of the rules and of the dashboard."""
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in PANELS for target in panel["targets"])


def documented_labels() -> set[str]:
    """The labels of all documented metrics."""
    rows = re.findall(r"^\| `\w+` \| (?:counter|gauge|histogram) \|([^|]*)\|", PAGE, re.MULTILINE)
    return {label for row in rows for label in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_reads_metrics_and_labels_that_exist(expression: str) -> None:
    known = documented()
    names = set(re.findall(r"\b(?:neuronetz|process)_\w+", expression))
    histograms = {f"{name}_bucket" for name, kind in known.items() if kind == "histogram"}
    assert names <= known.keys() | histograms
    assert set(re.findall(r"\bneuronetz:\w+", expression)) <= RECORDED_RULES
    labels = re.findall(r"[{,]\s*(\w+)\s*[=!]", expression)
    labels += [
        each for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression) for each in re.findall(r"\w+", group)
    ]
    assert set(labels) <= documented_labels() | OTHER_LABELS


def test_every_alert_is_documented_with_its_faults() -> None:
    assert set(FAULTS.values()) == ALERTS.keys()


def test_every_fault_has_a_unit_test_that_expects_its_alert_alone() -> None:
    expected = {}
    for test in TESTS:
        fired, *others = test["promql_expr_test"]
        (sample,) = fired["exp_samples"]
        expected[test["name"]] = re.sub(r'\{alertname="(\w+)"\}', r"\1", sample["labels"])
        assert others
        assert all(other["exp_samples"] == [] for other in others)
    assert expected == FAULTS


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_fires_within_a_minute_and_is_explained(name: str) -> None:
    rule = ALERTS[name]
    seconds = [int(number) * {"s": 1, "m": 60}[unit] for number, unit in re.findall(r"\[(\d+)([sm])\]", rule["expr"])]
    assert max([*seconds, int(str(rule.get("for", "0s")).removesuffix("s"))]) <= LONGEST_S
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"].endswith(".")


def test_panels_have_their_own_place_and_the_provisioned_data_source() -> None:
    (source,) = load_yaml((ROOT / "ops/grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not places & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}


def test_compose_mounts_the_files_where_the_programs_read_them() -> None:
    services = load_yaml((ROOT / "compose.observability.yaml").read_text())["services"]
    mounts = {
        target: source
        for service in services.values()
        for source, target, *_ in (volume.split(":") for volume in service["volumes"])
    }
    assert all((ROOT / source).exists() for source in mounts.values() if source.startswith("./"))
    configuration = load_yaml((ROOT / "ops/prometheus/prometheus.yaml").read_text())
    assert set(configuration["rule_files"]) <= mounts.keys()
    (provider,) = load_yaml((ROOT / "ops/grafana/provisioning/dashboards/dashboards.yaml").read_text())["providers"]
    assert any(target.startswith(provider["options"]["path"]) for target in mounts)
    # Prometheus and Grafana reach neither the stores nor the models, and are published on loopback only.
    assert {network for service in services.values() for network in service["networks"]} == {"metrics", "observe"}
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
