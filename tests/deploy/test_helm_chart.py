"""The Helm chart, linted and rendered by Helm's own engine, and validated with the schemas of Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import helm_python
import kubernetes_validate
import pytest
import rich_click as click

from gateway import __version__
from gateway.settings import SECRET_FIELDS, Settings
from ops.cli.services import run
from ops.data_plane.envoy_files import render
from tests.deploy.manifests import (
    CHART,
    VALUES,
    Manifest,
    container,
    containers,
    environment,
    of_kind,
    pod,
    pod_specs,
    rendered,
)
from tests.yaml_text import load_yaml

PLAIN = {**VALUES, "serviceTls": {"enabled": False}, "networkPolicy": {"enabled": False}}
# The oldest supported version of Kubernetes, and the newest one with published schemas.
KUBERNETES = ("1.30", "1.37")


def test_helm_lint_reports_no_problem() -> None:
    report = helm_python.lint(CHART, VALUES, strict=True)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}


def test_the_chart_has_the_version_of_the_gateway() -> None:
    assert load_yaml((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("values", [VALUES, PLAIN], ids=["defaults", "without TLS and policies"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid_for_kubernetes(values: dict[str, Any], version: str) -> None:
    for manifest in rendered(values):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_validation_finds_a_misspelt_field(manifests: list[Manifest]) -> None:
    wrong = json.loads(json.dumps(of_kind(manifests, "Deployment")["gw-neuronetz-gateway-authz"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


@pytest.mark.parametrize(
    "invalid",
    [
        {"existingSecret": ""},
        {"replicas": 2},
        {"image": {"repository": "gateway", "tag": "latest"}},
        {"authz": {"replicas": 0}},
        {"settings": {"DATABASE_URL": "postgresql://u:p@h/d"}},
        {"settings": {"METER_GRPC_LISTEN": "0.0.0.0:1"}},
        {"networkPolicy": {"clients": []}},
    ],
    ids=json.dumps,
)
def test_invalid_values_are_refused(invalid: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        rendered({**VALUES, **invalid})


def test_secrets_and_managed_settings_cannot_be_set_as_values(manifests: list[Manifest]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    refused = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])
    managed = {name for each in containers(manifests) if "env" in each for name in environment(each)}
    assert refused == {name.upper() for name in SECRET_FIELDS} | managed - set(VALUES["settings"])


def test_a_second_secret_is_for_authz_and_meter_only() -> None:
    def secrets_of(values: dict[str, Any]) -> dict[str, str]:
        specs = pod_specs(rendered(values)).items()
        named = {name: [each for each in spec["volumes"] if each["name"] == "secret"] for name, spec in specs}
        return {name.rpartition("-")[2]: volume["secret"]["secretName"] for name, (volume,) in named.items()}

    owner = VALUES["existingSecret"]
    assert secrets_of(VALUES) == dict.fromkeys(("authz", "meter", "envoy", "migrate"), owner)
    with_second = secrets_of({**VALUES, "serviceSecret": "service"})
    assert with_second == {"authz": "service", "meter": "service", "envoy": owner, "migrate": owner}


def test_images_are_pinned_and_no_secret_is_in_the_environment(manifests: list[Manifest]) -> None:
    images = {each["image"] for each in containers(manifests)}
    assert images == {f"neuronetz-gateway:{__version__}", "envoyproxy/envoy:v1.40.0"}
    by_digest = rendered({**VALUES, "image": {"repository": "r.example/gateway", "digest": f"sha256:{'0' * 64}"}})
    assert container(by_digest, "authz")["image"] == f"r.example/gateway@sha256:{'0' * 64}"
    for each in containers(manifests):
        assert all("valueFrom" not in entry for entry in each.get("env", ()))
        assert "envFrom" not in each


def test_every_pod_is_confined(manifests: list[Manifest]) -> None:
    for spec in pod_specs(manifests).values():
        assert spec["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in spec
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert all(set(volume) <= {"name", "secret", "emptyDir"} for volume in spec["volumes"])
        volumes = {volume["name"] for volume in spec["volumes"]}
        for each in [*spec.get("initContainers", ()), *spec["containers"]]:
            assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
    for each in containers(manifests):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in each["resources"]["limits"]
        assert {"cpu", "memory"} <= each["resources"]["requests"].keys()


def test_containers_run_our_commands_with_settings_as_environment(manifests: list[Manifest]) -> None:
    known = {name.upper() for name in Settings.model_fields} | {"GATEWAY_ENV_FILE"}
    (service,) = [parameter for parameter in run.params if parameter.name == "service"]
    assert isinstance(service.type, click.Choice)
    for name in service.type.choices:
        program = container(manifests, name)
        assert program["command"] == ["neuronetz-gateway", "run", name]
        assert environment(program).keys() <= known
        settings = Settings.model_validate({key.lower(): value for key, value in environment(program).items()})
        assert (settings.default_rpm, settings.playground_enabled) == (120, True)
        assert settings.service_tls is not None
    assert container(manifests, "migrate")["command"] == ["neuronetz-gateway", "migrate"]


def test_envoy_resolves_the_workers_by_headless_services(manifests: list[Manifest], tmp_path: Path) -> None:
    control = environment(container(manifests, "control"))
    settings = Settings.model_validate({key.lower(): value for key, value in control.items()})
    bootstrap = load_yaml(render(settings, tmp_path)["bootstrap.yaml"])
    clusters = {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}
    services = of_kind(manifests, "Service")
    for cluster, component in (("authz", "authz"), ("catalog", "authz"), ("meter", "meter")):
        assert clusters[cluster]["type"] == "STRICT_DNS"
        (endpoint,) = clusters[cluster]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        name, _, domain = address["address"].partition(".")
        assert domain == "home.svc.cluster.local"
        service = services[name]["spec"]
        assert service["clusterIP"] == "None"
        assert service["selector"].items() <= pod(manifests, component).labels.items()
        (port,) = [each for each in service["ports"] if each["port"] == address["port_value"]]
        (exposed,) = [p for p in container(manifests, component)["ports"] if p["name"] == port["targetPort"]]
        # A headless service does not translate ports.
        assert exposed["containerPort"] == address["port_value"]


def test_workers_listen_on_the_ports_of_their_probes(manifests: list[Manifest]) -> None:
    for name, setting in (
        ("authz", "AUTHZ_GRPC_LISTEN"),
        ("meter", "METER_GRPC_LISTEN"),
        ("control", "CONTROL_HTTP_LISTEN"),
    ):
        program = container(manifests, name)
        port = urlsplit(f"//{environment(program)[setting]}").port
        probe = program["livenessProbe"].get("tcpSocket") or program["livenessProbe"]["httpGet"]
        (exposed,) = [each["containerPort"] for each in program["ports"] if each["name"] == probe["port"]]
        assert exposed == port


def test_control_starts_before_envoy_and_stops_after_it(manifests: list[Manifest]) -> None:
    spec = pod_specs(manifests)["gw-neuronetz-gateway-envoy"]
    (control,), (envoy,) = spec["initContainers"], spec["containers"]
    assert control["restartPolicy"] == "Always"
    assert control["startupProbe"]["httpGet"]["path"] == "/healthz"
    directory = environment(control)["ENVOY_CONFIG_DIR"]
    mounts = {name: {m["mountPath"]: m for m in each["volumeMounts"]} for name, each in (("c", control), ("e", envoy))}
    assert mounts["c"][directory]["name"] == mounts["e"][directory]["name"]
    assert "readOnly" not in mounts["c"][directory]
    assert mounts["e"][directory]["readOnly"] is True
    assert f"{directory}/bootstrap.yaml" in envoy["command"]
    assert mounts["c"]["/tmp"]["name"] == "check"  # noqa: S108 (a directory of the pod)
    # control passes the paths of these files to Envoy, so Envoy must have them at the same paths.
    assert mounts["e"][str(Path(environment(control)["SERVICE_TLS_CERT_FILE"]).parent)]["name"] == "tls"


def test_requests_in_flight_have_their_grace_period(manifests: list[Manifest]) -> None:
    for component in ("authz", "meter", "envoy"):
        spec = pod_specs(manifests)[f"gw-neuronetz-gateway-{component}"]
        slept = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace_s = float(environment(container(manifests, "control"))["GATEWAY_SHUTDOWN_GRACE_S"])
        needed = slept if component == "envoy" else slept + grace_s + 5
        assert spec["terminationGracePeriodSeconds"] > needed


def test_the_schema_is_migrated_before_new_workers_start(manifests: list[Manifest]) -> None:
    (job,) = of_kind(manifests, "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # At a first installation only the Secret exists, which the operator created.
    assert [set(volume) for volume in job["spec"]["template"]["spec"]["volumes"]] == [{"name", "secret"}]


def test_components_are_spread_and_never_evicted_completely(manifests: list[Manifest]) -> None:
    budgets, deployments = of_kind(manifests, "PodDisruptionBudget"), of_kind(manifests, "Deployment")
    assert budgets.keys() == deployments.keys()
    for name, deployment in deployments.items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["replicas"] >= 2
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        selectors = [
            deployment["spec"]["selector"],
            budgets[name]["spec"]["selector"],
            *(each["labelSelector"] for each in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]),
        ]
        for selector in selectors:
            assert selector["matchLabels"].items() <= labels.items()
            chosen = [other for other in deployments if _matches(selector["matchLabels"], deployments[other])]
            assert chosen == [name]


def _matches(wanted: dict[str, str], deployment: Manifest) -> bool:
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return wanted.items() <= labels.items()
