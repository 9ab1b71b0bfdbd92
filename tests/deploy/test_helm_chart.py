"""The Helm chart, linted and rendered by Helm's own engine, and held against the schemas of Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import helm_python
import kubernetes_validate
import pytest
import rich_click as click
import yaml

from gateway import __version__
from gateway.settings import SECRET_FIELDS, Settings
from ops.cli.services import run
from ops.data_plane.envoy_files import render
from tests.deploy.network import Pod, allowed

CHART = Path(__file__).parents[2] / "deploy/helm/neuronetz-gateway"
VALUES: dict[str, Any] = {"existingSecret": "gateway", "settings": {"DEFAULT_RPM": 120, "PLAYGROUND_ENABLED": True}}
PLAIN = {**VALUES, "serviceTls": {"enabled": False}, "networkPolicy": {"enabled": False}}
# The oldest version that the chart takes, and the newest that there are schemas of.
KUBERNETES = ("1.30", "1.37")
WORKLOADS = ("Deployment", "Job")

Manifest = dict[str, Any]


def rendered(values: dict[str, Any]) -> list[Manifest]:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="gw", namespace="home")
    documents = (each for name, text in files.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text))
    return [document for document in documents if document]


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    return rendered(VALUES)


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
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
    """A pod as the chart makes it."""
    workload = of_kind(manifests, *WORKLOADS)[f"gw-neuronetz-gateway-{component}"]
    return Pod(workload["spec"]["template"]["metadata"]["labels"])


def environment(found: Manifest) -> dict[str, str]:
    names = [each["name"] for each in found["env"]]
    assert len(names) == len(set(names))
    return {each["name"]: each["value"] for each in found["env"]}


def test_helm_finds_nothing_to_mend() -> None:
    report = helm_python.lint(CHART, VALUES, strict=True)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("values", [VALUES, PLAIN], ids=["as it comes", "without TLS and policies"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_would_take_every_manifest(values: dict[str, Any], version: str) -> None:
    for manifest in rendered(values):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_noticed(manifests: list[Manifest]) -> None:
    wrong = json.loads(json.dumps(of_kind(manifests, "Deployment")["gw-neuronetz-gateway-authz"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


@pytest.mark.parametrize(
    "wrong",
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
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        rendered({**VALUES, **wrong})


def test_secrets_and_what_the_chart_decides_cannot_be_set_as_values(manifests: list[Manifest]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    refused = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])
    decided = {name for each in containers(manifests) if "env" in each for name in environment(each)}
    assert refused == {name.upper() for name in SECRET_FIELDS} | decided - set(VALUES["settings"])


def test_a_second_secret_is_for_authz_and_meter_alone() -> None:
    def secrets_of(values: dict[str, Any]) -> dict[str, str]:
        specs = pod_specs(rendered(values)).items()
        named = {name: [each for each in spec["volumes"] if each["name"] == "secret"] for name, spec in specs}
        return {name.rpartition("-")[2]: volume["secret"]["secretName"] for name, (volume,) in named.items()}

    owner = VALUES["existingSecret"]
    assert secrets_of(VALUES) == dict.fromkeys(("authz", "meter", "envoy", "migrate"), owner)
    with_second = secrets_of({**VALUES, "serviceSecret": "service"})
    assert with_second == {"authz": "service", "meter": "service", "envoy": owner, "migrate": owner}


def test_no_image_floats_and_no_secret_is_in_the_environment(manifests: list[Manifest]) -> None:
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


def test_the_programs_are_commands_of_ours_and_their_environment_is_settings(manifests: list[Manifest]) -> None:
    known = {name.upper() for name in Settings.model_fields} | {"GATEWAY_ENV_FILE"}
    (service,) = run.params
    assert isinstance(service.type, click.Choice)
    for name in service.type.choices:
        program = container(manifests, name)
        assert program["command"] == ["neuronetz-gateway", "run", name]
        assert environment(program).keys() <= known
        settings = Settings.model_validate({key.lower(): value for key, value in environment(program).items()})
        assert (settings.default_rpm, settings.playground_enabled) == (120, True)
        assert settings.service_tls is not None
    assert container(manifests, "migrate")["command"] == ["neuronetz-gateway", "migrate"]


def test_envoy_finds_the_workers_by_the_names_of_headless_services(manifests: list[Manifest], tmp_path: Path) -> None:
    control = environment(container(manifests, "control"))
    settings = Settings.model_validate({key.lower(): value for key, value in control.items()})
    bootstrap = yaml.safe_load(render(settings, tmp_path)["bootstrap.yaml"])
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


def test_workers_listen_where_their_probes_look(manifests: list[Manifest]) -> None:
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


def test_control_writes_before_envoy_reads_and_outlives_it(manifests: list[Manifest]) -> None:
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
    assert mounts["c"]["/tmp"]["name"] == "check"  # noqa: S108 (a pod's own)
    # control names these files to Envoy, so they must be where Envoy looks.
    assert mounts["e"][str(Path(environment(control)["SERVICE_TLS_CERT_FILE"]).parent)]["name"] == "tls"


def test_requests_in_flight_have_the_grace_time(manifests: list[Manifest]) -> None:
    for component in ("authz", "meter", "envoy"):
        spec = pod_specs(manifests)[f"gw-neuronetz-gateway-{component}"]
        slept = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace_s = float(environment(container(manifests, "control"))["GATEWAY_SHUTDOWN_GRACE_S"])
        needed = slept if component == "envoy" else slept + grace_s + 5
        assert spec["terminationGracePeriodSeconds"] > needed


def test_the_schema_is_migrated_before_anything_new_starts(manifests: list[Manifest]) -> None:
    (job,) = of_kind(manifests, "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # Of a first installation nothing else is there yet, but the Secret that the operator made.
    assert [set(volume) for volume in job["spec"]["template"]["spec"]["volumes"]] == [{"name", "secret"}]


def test_components_are_spread_and_never_all_evicted(manifests: list[Manifest]) -> None:
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


INGRESS = Pod({"app": "nginx"}, "ingress-nginx", {"kubernetes.io/metadata.name": "ingress-nginx"})
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system", {"kubernetes.io/metadata.name": "kube-system"})
STRANGER = Pod({"app": "stranger"})
INTERNET = Pod({}, "elsewhere", {})
STORES = {
    name: Pod({"app.kubernetes.io/name": label})
    for name, label in (("postgresql", "postgresql"), ("redis", "redis"), ("ollama", "ollama"))
}
# Everything that may connect to anything: who, to whom, on which port.
OPEN = {
    ("ingress", "envoy", 8080),
    ("envoy", "authz", 9001),
    ("envoy", "authz", 9002),
    ("envoy", "meter", 9003),
    ("envoy", "ollama", 11434),
    *((who, "postgresql", 5432) for who in ("authz", "meter", "envoy", "migrate")),
    *((who, "redis", 6379) for who in ("authz", "meter", "envoy")),
}
PORTS = (8080, 9001, 9002, 9003, 9004, 9901, 5432, 6379, 11434, 443)


def test_nothing_may_connect_but_what_must(manifests: list[Manifest]) -> None:
    policies = list(of_kind(manifests, "NetworkPolicy").values())
    own = {component: pod(manifests, component) for component in ("authz", "meter", "envoy", "migrate")}
    everybody = {**own, **STORES, "ingress": INGRESS, "stranger": STRANGER, "internet": INTERNET}
    closed = {*own, *STORES}
    found = {
        (who, whom, port)
        for who, source in everybody.items()
        for whom, target in everybody.items()
        for port in PORTS
        # What others do among themselves is not ours to say.
        if (who in own or whom in closed) and allowed(policies, source, target, port)
    }
    assert found == OPEN
    assert all(allowed(policies, each, DNS, 53, "UDP") for each in own.values())


def test_other_places_of_the_stores_are_let_through_where_values_say_so() -> None:
    far = Pod({"app": "ollama"}, "models", {"team": "ml"})
    place = {"to": [{"namespaceSelector": {"matchLabels": {"team": "ml"}}}], "ports": [443]}
    manifests = rendered({**VALUES, "networkPolicy": {"ollama": place, "guarded": {"ollama": {}}}})
    policies = list(of_kind(manifests, "NetworkPolicy").values())
    assert allowed(policies, pod(manifests, "envoy"), far, 443)
    assert not allowed(policies, pod(manifests, "meter"), far, 443)
    assert not allowed(policies, pod(manifests, "envoy"), STORES["ollama"], 11434)
