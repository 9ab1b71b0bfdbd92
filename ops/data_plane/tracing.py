"""Envoy's part of a trace: its OTLP exporter, its sampler, and the cluster of the collector. Pure.

Envoy creates the span of the request, one for each call to authz and meter, and one for each attempt at a backend. It
decides whether a request is traced. authz and meter follow the flag in the `traceparent` header of its calls.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/trace/v3/opentelemetry.proto
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.settings import Settings
from gateway.settings.telemetry import read_pairs
from ops.data_plane.cluster_json import CREDENTIAL_INJECTOR, HTTP_PROTOCOL_OPTIONS

COLLECTOR = "otlp"
"""The name of the collector's cluster. The clusters of backends have a prefix."""

_TYPE = "type.googleapis.com/"
_SAMPLERS = "envoy.extensions.tracers.opentelemetry.samplers.v3."
_DEFAULT_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# A collector that does not answer costs no more than this: further batches are dropped.
_EXPORTS_MAX = 8
# Spans that an Envoy thread collects for one export, at the latest after the delay. By default it exports five.
_BATCH_SPANS = 512
_CACHED_SPANS_MAX = 2048
_PPM = 1_000_000
_PATH_CHARACTERS_MAX = 256


def tracing(settings: Settings) -> dict[str, Any] | None:
    """Returns the tracing of the connection manager, None when no endpoint is configured."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return None
    return {
        "spawn_upstream_span": True,
        "max_path_tag_length": _PATH_CHARACTERS_MAX,
        # The path without its query, in which a caller may have put a secret.
        "custom_tags": [{"tag": "http.url", "value": f"%PATH(NQ:PATH):{_PATH_CHARACTERS_MAX}%"}],
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": f"{_TYPE}envoy.config.trace.v3.OpenTelemetryConfig",
                "http_service": {
                    "http_uri": {
                        "uri": f"{endpoint}/v1/traces",
                        "cluster": COLLECTOR,
                        "timeout": f"{settings.otel_exporter_otlp_timeout / 1000:.3f}s",
                    }
                },
                "service_name": settings.otel_service_name,
                "resource_detectors": [_resource(settings)],
                "sampler": _sampler(settings.otel_traces_sampler, settings.otel_traces_sampler_arg),
                "max_cache_size": _CACHED_SPANS_MAX,
            },
        },
    }


def runtime(settings: Settings) -> dict[str, Any] | None:
    """Returns the runtime values of the exporter, None when no endpoint is configured."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    values = {
        "tracing.opentelemetry.min_flush_spans": _BATCH_SPANS,
        "tracing.opentelemetry.flush_interval_ms": settings.otel_bsp_schedule_delay,
    }
    return {"layers": [{"name": "tracing", "static_layer": values}]}


def collector(settings: Settings, directory: Path) -> dict[str, Any] | None:
    """Returns the cluster of the collector, None without one. `directory` contains the secrets of its headers."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    parts = urlsplit(settings.otel_exporter_otlp_endpoint)
    host, is_https = parts.hostname or "", parts.scheme == "https"
    address = {"socket_address": {"address": host, "port_value": parts.port or (443 if is_https else 80)}}
    cluster: dict[str, Any] = {
        "name": COLLECTOR,
        "type": "STATIC" if _is_address(host) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": COLLECTOR,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {
            "thresholds": [{"max_connections": 2, "max_pending_requests": _EXPORTS_MAX, "max_requests": _EXPORTS_MAX}]
        },
        "typed_extension_protocol_options": {HTTP_PROTOCOL_OPTIONS: _protocol(settings, directory)},
    }
    if is_https:
        cluster["transport_socket"] = _tls(host)
    return cluster


def header_secrets(settings: Settings) -> dict[str, str]:
    """Returns the values of the collector's headers by the name of their secret."""
    if settings.otel_exporter_otlp_endpoint is None:
        return {}
    return {_secret_name(name): value for name, value in _headers(settings).items()}


def _headers(settings: Settings) -> Mapping[str, str]:
    return read_pairs(settings.otel_exporter_otlp_headers.get_secret_value())


def _secret_name(header: str) -> str:
    return f"collector-{header.lower()}"


def _protocol(settings: Settings, directory: Path) -> dict[str, Any]:
    """HTTP/1.1, with a filter for each header, whose secret is in a file and so not in Envoy's configuration dump."""
    extensions = f"{_TYPE}envoy.extensions."
    injectors = [
        {
            "name": CREDENTIAL_INJECTOR,
            "typed_config": {
                "@type": f"{extensions}filters.http.credential_injector.v3.CredentialInjector",
                "overwrite": True,
                "credential": {
                    "name": "envoy.http.injected_credentials.generic",
                    "typed_config": {
                        "@type": f"{extensions}http.injected_credentials.generic.v3.Generic",
                        "credential": _secret(_secret_name(header), directory),
                        "header": header,
                    },
                },
            },
        }
        for header in _headers(settings)
    ]
    codec = {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": f"{extensions}filters.http.upstream_codec.v3.UpstreamCodec"},
    }
    return {
        "@type": f"{extensions}upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        **({"http_filters": [*injectors, codec]} if injectors else {}),
    }


def _secret(name: str, directory: Path) -> dict[str, Any]:
    source = {"path": str(directory / f"{name}.yaml"), "watched_directory": {"path": str(directory)}}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": source}}


def _tls(host: str) -> dict[str, Any]:
    is_address = _is_address(host)
    validation = {
        "trusted_ca": {"filename": ssl.get_default_verify_paths().cafile or _DEFAULT_BUNDLE},
        "match_typed_subject_alt_names": [
            {"san_type": "IP_ADDRESS" if is_address else "DNS", "matcher": {"exact": host}}
        ],
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "" if is_address else host,
            "common_tls_context": {"alpn_protocols": ["http/1.1"], "validation_context": validation},
        },
    }


def _resource(settings: Settings) -> dict[str, Any]:
    attributes = {
        **read_pairs(settings.otel_resource_attributes),
        "service.instance.id": f"{socket.gethostname()}:{settings.gateway_bind_port}",
        "neuronetz.process": "envoy",
    }
    name = "envoy.tracers.opentelemetry.resource_detectors.static_config"
    detector = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig"
    return {"name": name, "typed_config": {"@type": f"{_TYPE}{detector}", "attributes": attributes}}


def _sampler(name: str, ratio: float) -> dict[str, Any]:
    """Envoy's form of OTEL_TRACES_SAMPLER. It has no sampler that samples nothing, which a ratio of 0 does."""
    root = name.removeprefix("parentbased_")
    if root == "always_on":
        wrapped = _extension("always_on", "AlwaysOnSamplerConfig", {})
    else:
        parts = round(ratio * _PPM) if root == "traceidratio" else 0
        percentage = {"numerator": parts, "denominator": "MILLION"}
        wrapped = _extension(
            "trace_id_ratio_based", "TraceIdRatioBasedSamplerConfig", {"sampling_percentage": percentage}
        )
    if root == name:
        return wrapped
    return _extension("parent_based", "ParentBasedSamplerConfig", {"wrapped_sampler": wrapped})


def _extension(name: str, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": f"envoy.tracers.opentelemetry.samplers.{name}",
        "typed_config": {"@type": f"{_TYPE}{_SAMPLERS}{kind}", **config},
    }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
