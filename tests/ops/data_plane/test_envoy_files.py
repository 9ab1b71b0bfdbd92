import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import MESSAGE, Code
from gateway.rpc.message_sizes import ANSWER_BYTES_MAX
from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.wire.dialects import error_object
from gateway.wire.surfaces import Dialect, dialect_of
from ops.data_plane.backend_secrets import secret_name
from ops.data_plane.envoy_files import render, render_secrets, write
from ops.data_plane.local_replies import local_reply_config
from ops.host import binaries
from tests.certificates import self_signed
from tests.yaml_text import load_yaml

TOKEN = "a-token-that-must-not-show"
BACKENDS: list[dict[str, Any]] = [
    {"name": "near", "base_url": "http://127.0.0.1:11434", "replicas": ["http://127.0.0.1:11435"], "auth_token": TOKEN},
    {"name": "far", "base_url": "https://ollama.example.com", "auth_token": TOKEN, "auth_header": "X-API-Key"},
    {"name": "bare", "base_url": "http://ollama.example.com:11434"},
]


ONE_MACHINE = {
    "ollama_backends": BACKENDS,
    "authz_grpc_targets": ["unix:/run/a0.sock", "unix:/run/a1.sock"],
    "envoy_admin_listen": "unix:/run/admin.sock",
}
MORE_MACHINES = {
    **ONE_MACHINE,
    "authz_grpc_targets": ["authz.example:9001"],
    "service_tls_cert_file": "/tls/envoy.crt",
    "service_tls_key_file": "/tls/envoy.key",
    "service_tls_ca_file": "/ca/ca.crt",
}


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(ONE_MACHINE)


def listener(files: dict[str, bytes]) -> dict[str, Any]:
    resources: list[dict[str, Any]] = load_yaml(files["listener.yaml"])["resources"]
    return resources[0]


def connection_manager(files: dict[str, bytes]) -> dict[str, Any]:
    manager: dict[str, Any] = listener(files)["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def routes(files: dict[str, bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection_manager(files)["route_config"]["virtual_hosts"][0]["routes"]
    return found


def test_the_meter_accepts_the_largest_message_of_the_access_log(settings: Settings, tmp_path: Path) -> None:
    manager = connection_manager(render(settings, tmp_path))
    (access_log,) = manager["access_log"]
    record_bytes_max = 2 * 1024 * manager["max_request_headers_kb"]
    message_bytes_max = access_log["typed_config"]["common_config"]["buffer_size_bytes"] + record_bytes_max
    assert 5000 * 1024 < message_bytes_max <= ANSWER_BYTES_MAX


SMALLEST = {
    "ollama_max_connections": 1,
    "ollama_connect_timeout_s": 0.001,
    "ollama_read_timeout_s": 0.001,
}
LARGEST: dict[str, Any] = {
    "otel_exporter_otlp_endpoint": "https://collector.example.com/otlp",
    "otel_exporter_otlp_headers": "X-Collector-Key=a%20secret",
    "otel_resource_attributes": "deployment.environment.name=test",
    "otel_traces_sampler": "parentbased_traceidratio",
    "otel_traces_sampler_arg": 0.25,
    "gateway_allowed_origins": ["https://chat.example", "http://[::1]:3000", "app://obsidian.md"],
    "ollama_max_connections": 100_000_000,
    "ollama_connect_timeout_s": 31_536_000,
    "ollama_read_timeout_s": 31_536_000,
    "max_request_body_bytes_ceiling": 64 * 1024 * 1024,
    "gateway_bind_port": 65_535,
}


@pytest.mark.parametrize(
    "machines",
    [{**ONE_MACHINE, **SMALLEST}, {**MORE_MACHINES, **LARGEST}],
    ids=["one machine, smallest numbers", "more machines, largest numbers"],
)
def test_envoy_accepts_the_whole_configuration(machines: dict[str, Any], tmp_path: Path) -> None:
    """The dynamic resources are added to the bootstrap, because validation ignores subscriptions."""
    authority = self_signed(tmp_path, "own.example.com").certificate
    own = {"name": "own", "base_url": "https://own.example.com", "ca_file": authority}
    settings = Settings.model_validate({**machines, "ollama_backends": [*BACKENDS, own]})
    write(settings, tmp_path)
    bootstrap = load_yaml((tmp_path / "bootstrap.yaml").read_text())
    del bootstrap["dynamic_resources"]
    static = bootstrap["static_resources"]
    for cluster in json.loads((tmp_path / "cds.yaml").read_text())["resources"]:
        static["clusters"].append({key: value for key, value in cluster.items() if key != "@type"})
    entry = listener(render(settings, tmp_path))
    static["listeners"] = [{key: value for key, value in entry.items() if key != "@type"}]
    # YAML would keep the aliases of the hand-written file; JSON expands each of them.
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(bootstrap))
    checked = subprocess.run(
        [binaries.envoy(), "--mode", "validate", "-c", whole, "--use-dynamic-base-id"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr[-2000:]
    assert "Unknown field" not in checked.stderr


def own_clusters(settings: Settings, directory: Path) -> dict[str, dict[str, Any]]:
    bootstrap = load_yaml(render(settings, directory)["bootstrap.yaml"])
    return {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}


def test_sockets_are_static_endpoints_and_names_are_resolved_to_every_address(tmp_path: Path) -> None:
    assert own_clusters(Settings.model_validate(ONE_MACHINE), tmp_path)["authz"]["type"] == "STATIC"
    assert own_clusters(Settings.model_validate(MORE_MACHINES), tmp_path)["authz"]["type"] == "STRICT_DNS"


def weights(settings: dict[str, Any], directory: Path, cluster: str) -> list[int | None]:
    assignment = own_clusters(Settings.model_validate(settings), directory)[cluster]["load_assignment"]
    (locality,) = assignment["endpoints"]
    return [endpoint.get("load_balancing_weight") for endpoint in locality["lb_endpoints"]]


@pytest.mark.parametrize(
    ("cores", "chosen", "expected"),
    [
        (1, 0, [20, 1, 1]),
        (2, 0, [20, 1, 1]),
        (5, 0, [20, 20, 1]),
        (6, 0, [None] * 3),
        (2, 3, [None] * 3),
        (8, 1, [20, 1, 1]),
    ],
)
def test_authz_workers_beyond_half_of_the_cores_are_standbys(
    cores: int, chosen: int, expected: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    three = [f"unix:/run/{number}.sock" for number in range(3)]
    targets = dict.fromkeys(("authz_grpc_targets", "authz_http_targets", "meter_grpc_targets"), three)
    settings = {**ONE_MACHINE, **targets, "preferred_authz_workers": chosen}
    assert [weights(settings, tmp_path, cluster) for cluster in ("authz", "catalog")] == [expected] * 2
    assert weights(settings, tmp_path, "meter") == [None] * 3


def test_no_worker_of_another_machine_is_a_standby(tmp_path: Path) -> None:
    settings = {
        **MORE_MACHINES,
        "authz_grpc_targets": ["a.example:9001", "b.example:9001"],
        "preferred_authz_workers": 1,
    }
    assert weights(settings, tmp_path, "authz") == [None, None]


def test_over_a_network_each_service_must_present_the_certificate_of_its_name(tmp_path: Path) -> None:
    files = render(Settings.model_validate(MORE_MACHINES), tmp_path)
    names = {
        "authz": "authz.neuronetz-gateway",
        "catalog": "authz.neuronetz-gateway",
        "meter": "meter.neuronetz-gateway",
    }
    clusters = own_clusters(Settings.model_validate(MORE_MACHINES), tmp_path)
    for cluster, name in names.items():
        tls = clusters[cluster]["transport_socket"]["typed_config"]["common_tls_context"]
        context = tls["combined_validation_context"]
        assert context["default_validation_context"]["match_typed_subject_alt_names"][0]["matcher"] == {"exact": name}
        for sds in (context["validation_context_sds_secret_config"], *tls["tls_certificate_sds_secret_configs"]):
            path = Path(sds["sds_config"]["path_config_source"]["path"])
            assert json.loads(files[path.name])["resources"][0]["name"] == sds["name"]
    assert b"/ca/ca.crt" in files["service-authority.yaml"]


def test_exactly_the_routes_to_backends_pass_the_meter(settings: Settings, tmp_path: Path) -> None:
    enabled = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
    for route in routes(render(settings, tmp_path)):
        filters = route.get("typed_per_filter_config", {})
        if "direct_response" not in route and route["route"].get("cluster") != "catalog":
            assert filters["envoy.filters.http.ext_proc"] == enabled
            assert "envoy.filters.http.ext_authz" not in filters
        else:
            assert "envoy.filters.http.ext_proc" not in filters


def test_no_secret_is_in_a_file_that_envoy_displays(settings: Settings, tmp_path: Path) -> None:
    assert all(TOKEN.encode() not in content for content in render(settings, tmp_path).values())
    near, far, _ = settings.backends
    assert render_secrets(settings) == {
        f"{secret_name(near)}.token": f"Bearer {TOKEN}".encode(),
        f"{secret_name(far)}.token": TOKEN.encode(),
    }


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"auth_token": "another"}, True),
        ({"ca_file": "/ca.pem"}, False),
        ({"base_url": "http://127.0.0.1:9"}, False),
        ({"replicas": ["http://127.0.0.1:9"]}, False),
        ({"auth_header": "X-API-Key"}, False),
        ({"auth_scheme": "Token"}, False),
    ],
)
def test_a_secret_belongs_to_one_destination_so_that_a_token_never_follows_a_name(
    change: dict[str, Any], is_same: bool
) -> None:
    before, after = Backend.model_validate(BACKENDS[0]), Backend.model_validate(BACKENDS[0] | change)
    assert (secret_name(before) == secret_name(after)) == is_same


def test_only_credentials_of_removed_backends_are_deleted(settings: Settings, tmp_path: Path) -> None:
    write(settings, tmp_path)
    (tmp_path / "credential-of-another-program.token").write_text("kept")
    bare = settings.model_copy(update={"ollama_backends": settings.backends[2:]})
    write(bare, tmp_path)
    assert {path.name for path in tmp_path.glob("credential*")} == {"credential-of-another-program.token"}


def test_every_file_is_private(settings: Settings, tmp_path: Path) -> None:
    directory = tmp_path / "envoy"
    write(settings, directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


def test_each_backend_strips_all_credential_headers_before_it_adds_its_own(settings: Settings, tmp_path: Path) -> None:
    for cluster in json.loads(render(settings, tmp_path)["cds.yaml"])["resources"]:
        (options,) = cluster["typed_extension_protocol_options"].values()
        names = [each["name"].rpartition(".")[2] for each in options["http_filters"]]
        own = ["credential_injector"] if cluster["name"] != "backend:bare" else []
        assert names == ["header_mutation", *own, "wasm", "further_attempts", "internal_headers", "upstream_codec"]
        stripped = options["http_filters"][0]["typed_config"]["mutations"]["request_mutations"]
        of_envoy = {"x-forwarded-proto", "x-envoy-external-address"}
        assert {each["remove"] for each in stripped} == {"authorization", "x-api-key", *of_envoy}


def test_each_cluster_of_a_backend_names_itself_in_its_answers(tmp_path: Path) -> None:
    near = {"name": "near", "base_url": "http://127.0.0.1:11434", "replicas": ["http://127.0.0.1:11435"]}
    settings = Settings.model_validate({**ONE_MACHINE, "ollama_backends": [near]})
    clusters = json.loads(render(settings, tmp_path)["cds.yaml"])["resources"]
    for cluster in clusters:
        (options,) = cluster["typed_extension_protocol_options"].values()
        mutations = options["http_filters"][0]["typed_config"]["mutations"]["response_mutations"]
        assert mutations[0]["append"]["header"] == {"key": "x-nz-cluster", "value": cluster["name"]}
    assert len(clusters) == 3


def test_local_replies_have_the_messages_of_the_error_table_in_every_dialect() -> None:
    mappers = local_reply_config(1024)["mappers"]
    for dialect, path in (
        (Dialect.NATIVE, "/api/chat"),
        (Dialect.OPENAI, "/v1/x"),
        (Dialect.ANTHROPIC, "/v1/messages"),
    ):
        assert dialect_of(path) is dialect
        unavailable = next(
            mapper
            for mapper in mappers
            if mapper.get("status_code") == 503
            and mapper["headers_to_add"][0]["header"]["value"] == Code.UNAVAILABLE
            and re.fullmatch(_path_regex(mapper), path)
        )
        expected = error_object(dialect, Code.UNAVAILABLE, MESSAGE[Code.UNAVAILABLE], "%RESP(x-request-id)%")
        assert unavailable["body_format_override"]["json_format"] == expected


def test_exactly_the_local_replies_about_an_unavailable_backend_have_a_retry_after() -> None:
    """W25 of the comparison with the real Ollama."""
    for mapper in local_reply_config(1024)["mappers"][1:]:
        headers = {each["header"]["key"]: each["header"]["value"] for each in mapper["headers_to_add"]}
        assert ("retry-after" in headers) == (headers["x-gateway-error"] == Code.BACKEND_UNAVAILABLE)


def test_a_local_reply_to_a_request_without_a_path_has_the_messages_too() -> None:
    without_path = [
        mapper for mapper in local_reply_config(1024)["mappers"] if "status_code_filter" in mapper["filter"]
    ]
    assert {400, 404, 408, 413, 503} <= {mapper["status_code"] for mapper in without_path}
    assert all(list(mapper["body_format_override"]["json_format"]) == ["error"] for mapper in without_path)


def _path_regex(mapper: dict[str, Any]) -> str:
    """Returns the regular expression of the paths that a mapper applies to."""
    if "and_filter" not in mapper["filter"]:
        return ".*"
    header = mapper["filter"]["and_filter"]["filters"][1]["header_filter"]["header"]
    regex: str = header["string_match"]["safe_regex"]["regex"]
    return regex
