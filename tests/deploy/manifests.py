"""The Helm chart, rendered by Helm's own engine, and access to its manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python

from tests.deploy.network_policies import Pod
from tests.yaml_text import load_all_yaml

CHART = Path(__file__).parents[2] / "deploy/helm/neuronetz-gateway"
VALUES: dict[str, Any] = {"existingSecret": "gateway", "settings": {"DEFAULT_RPM": 120, "PLAYGROUND_ENABLED": True}}
WORKLOADS = ("Deployment", "Job")

Manifest = dict[str, Any]


def rendered(values: dict[str, Any]) -> list[Manifest]:
    """Renders every manifest of the chart. Raises HelmError for values that its schema refuses."""
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="gw", namespace="home")
    documents = (each for name, text in files.items() if name.endswith(".yaml") for each in load_all_yaml(text))
    return [document for document in documents if document]


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    """Returns the manifests of these kinds by name."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] in kinds}


def pod_specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {name: each["spec"]["template"]["spec"] for name, each in of_kind(manifests, *WORKLOADS).items()}


def containers(manifests: list[Manifest]) -> Iterator[Manifest]:
    for spec in pod_specs(manifests).values():
        yield from [*spec.get("initContainers", ()), *spec["containers"]]


def container(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = [each for each in containers(manifests) if each["name"] == name]
    return found


def pod(manifests: list[Manifest], component: str) -> Pod:
    """A pod with the labels that the chart gives it."""
    workload = of_kind(manifests, *WORKLOADS)[f"gw-neuronetz-gateway-{component}"]
    return Pod(workload["spec"]["template"]["metadata"]["labels"])


def environment(found: Manifest) -> dict[str, str]:
    """Returns the environment of a container."""
    names = [each["name"] for each in found["env"]]
    assert len(names) == len(set(names))
    return {each["name"]: each["value"] for each in found["env"]}
