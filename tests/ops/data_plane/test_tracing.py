from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from ops.data_plane.envoy_files import render, render_secrets, write
from tests.yaml_text import load_yaml

ENDPOINT = "http://collector.example:4318"


def rendered(directory: Path, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The bootstrap and the connection manager."""
    files = render(Settings.model_validate(fields), directory)
    (resource,) = load_yaml(files["listener.yaml"])["resources"]
    return load_yaml(files["bootstrap.yaml"]), resource["filter_chains"][0]["filters"][0]["typed_config"]


def sampler(directory: Path, name: str, ratio: float = 1.0) -> dict[str, Any]:
    fields = {"otel_traces_sampler": name, "otel_traces_sampler_arg": ratio}
    _, manager = rendered(directory, otel_exporter_otlp_endpoint=ENDPOINT, **fields)
    found: dict[str, Any] = manager["tracing"]["provider"]["typed_config"]["sampler"]
    return found


def test_without_an_endpoint_envoy_has_no_tracing_no_runtime_and_no_collector(tmp_path: Path) -> None:
    bootstrap, manager = rendered(tmp_path)
    assert manager["tracing"] is None
    assert bootstrap["layered_runtime"] is None
    assert "otlp" not in {cluster["name"] for cluster in bootstrap["static_resources"]["clusters"]}


def test_the_spans_go_to_the_path_below_the_endpoint(tmp_path: Path) -> None:
    bootstrap, manager = rendered(tmp_path, otel_exporter_otlp_endpoint=f"{ENDPOINT}/otlp/")
    provider = manager["tracing"]["provider"]["typed_config"]
    assert provider["http_service"]["http_uri"]["uri"] == f"{ENDPOINT}/otlp/v1/traces"
    cluster = bootstrap["static_resources"]["clusters"][-1]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "collector.example", "port_value": 4318}
    assert "transport_socket" not in cluster


def test_a_header_of_the_collector_is_in_a_secret_only(tmp_path: Path) -> None:
    fields = {"otel_exporter_otlp_endpoint": ENDPOINT, "otel_exporter_otlp_headers": "Authorization=Bearer%20t0ken"}
    settings = Settings.model_validate(fields)
    assert not any(b"t0ken" in content for content in render(settings, tmp_path).values())
    assert b"Bearer t0ken" in render_secrets(settings)["collector-authorization.yaml"]
    write(settings, tmp_path)
    secret = tmp_path / "collector-authorization.yaml"
    assert secret.stat().st_mode & 0o777 == 0o600
    write(Settings(otel_exporter_otlp_endpoint=ENDPOINT), tmp_path)
    assert not secret.exists()


@pytest.mark.parametrize(
    ("name", "ratio", "millionths"),
    [("traceidratio", 0.25, 250_000), ("traceidratio", 0.0, 0), ("always_off", 1.0, 0)],
)
def test_a_ratio_is_in_millionths(tmp_path: Path, name: str, ratio: float, millionths: int) -> None:
    for prefix in ("", "parentbased_"):
        found = sampler(tmp_path, prefix + name, ratio)
        if prefix:
            assert found["name"].endswith("parent_based")
            found = found["typed_config"]["wrapped_sampler"]
        assert found["typed_config"]["sampling_percentage"] == {"numerator": millionths, "denominator": "MILLION"}


def test_the_default_adopts_the_decision_of_the_caller_and_else_samples(tmp_path: Path) -> None:
    found = sampler(tmp_path, "parentbased_always_on")
    assert found["name"].endswith("parent_based")
    assert found["typed_config"]["wrapped_sampler"]["name"].endswith("always_on")
