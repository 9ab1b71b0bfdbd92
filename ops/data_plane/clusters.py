"""Backends as Envoy clusters, one each, with envoy-data-plane's message classes. Pure.

A cluster carries what is the backend's own: replicas, health, breakers, TLS, and the upstream filters that run on every
attempt. Their order matters, because what one backend's filters put into a request is still there when the router
retries it on the next backend: strip every credential first, then add this backend's own.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from betterproto2 import Message
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.filters.http.credential_injector import v3 as credential_injector
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec import v3 as upstream_codec
from envoy_data_plane.envoy.extensions.filters.http.wasm import v3 as wasm_filter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic import v3 as generic_credential
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams_http
from envoy_data_plane.envoy.extensions.wasm import v3 as wasm
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.wire.names import cluster_name

HOLD_RESPONSE_WASM = "hold_response.wasm"
_WAITING_PER_CONNECTION = 16
CREDENTIAL_HEADERS = ("authorization", "x-api-key")


def secret_name(backend: Backend) -> str:
    """Name of the backend's credential in SDS, and stem of its two files.

    It is of one destination: a backend that gets another address gets another secret, because Envoy takes clusters
    and secrets up at moments of its own, and no token may go where it was not meant to. A new token alone keeps it.
    """
    return f"credential-{backend.name}-{_destination(backend)}"


def authority_name(backend: Backend) -> str:
    """Name of what the backend's `ca_file` holds, in SDS, and stem of its file; of one destination likewise.

    It is no part of the cluster, so that connections which are open stay open when it is renewed.
    """
    return f"authority-{backend.name}-{_destination(backend)}"


def _destination(backend: Backend) -> str:
    parts = [sorted(backend.urls), str(backend.ca_file), backend.auth_header.lower(), backend.auth_scheme]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def render_clusters(settings: Settings, directory: Path) -> list[cluster.Cluster]:
    """One cluster per backend. `directory` is where the SDS files and the hold filter lie."""
    strip = sorted({*CREDENTIAL_HEADERS, *(b.auth_header.lower() for b in settings.backends)})
    return [_cluster(backend, settings, strip, directory) for backend in settings.backends]


def _cluster(backend: Backend, settings: Settings, strip: Sequence[str], directory: Path) -> cluster.Cluster:
    host = urlsplit(backend.base_url).hostname or ""
    return cluster.Cluster(
        name=cluster_name(backend.name),
        type=cluster.ClusterDiscoveryType.STATIC
        if _all_addresses(backend)
        else cluster.ClusterDiscoveryType.STRICT_DNS,
        # Otherwise `localhost` is ::1, where an Ollama does not listen unless it is told to.
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        connect_timeout=timedelta(seconds=settings.ollama_connect_timeout_s),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=cluster_name(backend.name),
            endpoints=[
                endpoint.LocalityLbEndpoints(lb_endpoints=[_endpoint(url) for url in backend.urls]),
                _TOMBSTONE,
            ],
            # Without this, one sick replica of two would already send a quarter of the requests to the tombstone.
            policy=endpoint.ClusterLoadAssignmentPolicy(overprovisioning_factor=100_000),
        ),
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=envoy_type.Percent(value=0.0)),
        health_checks=[_health_check(host)],
        outlier_detection=_OUTLIER_DETECTION,
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(
                    max_connections=settings.ollama_max_connections,
                    # Who finds no free connection waits; a long queue is refused instead.
                    max_pending_requests=settings.ollama_max_connections * _WAITING_PER_CONNECTION,
                    max_requests=10_000,
                    # Retries at once, not per request; with the default of 3 fail-over is silently lost under load.
                    max_retries=10_000,
                )
            ]
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(
                upstreams_http.HttpProtocolOptions(
                    explicit_http_config=upstreams_http.HttpProtocolOptionsExplicitHttpConfig(
                        http_protocol_options=core.Http1ProtocolOptions()
                    ),
                    common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=timedelta(seconds=60)),
                    http_filters=_upstream_filters(backend, strip, directory),
                )
            )
        },
        transport_socket=_tls(backend, host, directory) if backend.base_url.startswith("https://") else None,
    )


def _all_addresses(backend: Backend) -> bool:
    for url in backend.urls:
        try:
            ip_address(urlsplit(url).hostname or "")
        except ValueError:
            return False
    return True


def _endpoint(url: str) -> endpoint.LbEndpoint:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return endpoint.LbEndpoint(
        endpoint=endpoint.Endpoint(
            address=core.Address(
                socket_address=core.SocketAddress(address=parts.hostname or "", port_value=port),
            ),
            hostname=parts.netloc,
        )
    )


# "No healthy host" ends a request without a retry. An endpoint that always refuses, used only when every real one is
# out, turns it into an ordinary connection failure, which the router takes to the next backend.
_TOMBSTONE = endpoint.LocalityLbEndpoints(
    priority=1,
    lb_endpoints=[
        endpoint.LbEndpoint(
            endpoint=endpoint.Endpoint(
                address=core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=1)),
                hostname="unavailable",
                health_check_config=endpoint.EndpointHealthCheckConfig(disable_active_health_check=True),
            )
        )
    ],
)

# Only real answers of 502, 503 and 504 eject a replica; failed connections are left to the health check, which must not
# eject the tombstone.
_OUTLIER_DETECTION = cluster.OutlierDetection(
    consecutive_gateway_failure=5,
    enforcing_consecutive_gateway_failure=100,
    enforcing_consecutive_5xx=0,
    enforcing_success_rate=0,
    split_external_local_origin_errors=True,
    enforcing_consecutive_local_origin_failure=0,
    enforcing_local_origin_success_rate=0,
    interval=timedelta(seconds=1),
    base_ejection_time=timedelta(seconds=10),
    max_ejection_time=timedelta(seconds=60),
    max_ejection_percent=100,
    successful_active_health_check_uneject_host=False,
)


def _health_check(host: str) -> core.HealthCheck:
    """Health checks do not pass the upstream filters and carry no token, so 401 and 403 are signs of life too."""
    return core.HealthCheck(
        timeout=timedelta(seconds=2),
        interval=timedelta(seconds=1),
        no_traffic_interval=timedelta(seconds=1),
        unhealthy_threshold=2,
        healthy_threshold=1,
        http_health_check=core.HealthCheckHttpHealthCheck(
            host=host,
            path="/api/version",
            expected_statuses=[
                envoy_type.Int64Range(start=200, end=300),
                envoy_type.Int64Range(start=401, end=402),
                envoy_type.Int64Range(start=403, end=404),
            ],
        ),
    )


def _filter(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=Any.pack(config))


def _upstream_filters(backend: Backend, strip: Sequence[str], directory: Path) -> list[hcm.HttpFilter]:
    credential = backend.credential()
    return [
        _filter(
            "envoy.filters.http.header_mutation",
            header_mutation.HeaderMutation(
                mutations=header_mutation.Mutations(
                    request_mutations=[mutation_rules.HeaderMutation(remove=name) for name in strip]
                )
            ),
        ),
        *([_credential_filter(backend, credential[0], directory)] if credential else []),
        _filter("envoy.filters.http.wasm", _hold_response(directory)),
        _filter("envoy.filters.http.upstream_codec", upstream_codec.UpstreamCodec()),
    ]


def _credential_filter(backend: Backend, header: str, directory: Path) -> hcm.HttpFilter:
    generic = generic_credential.Generic(credential=_secret(secret_name(backend), directory), header=header)
    return _filter(
        "envoy.filters.http.credential_injector",
        credential_injector.CredentialInjector(
            overwrite=True,
            credential=core.TypedExtensionConfig(
                name="envoy.http.injected_credentials.generic", typed_config=Any.pack(generic)
            ),
        ),
    )


def _secret(name: str, directory: Path) -> tls.SdsSecretConfig:
    source = core.PathConfigSource(
        path=str(directory / f"{name}.yaml"), watched_directory=core.WatchedDirectory(path=str(directory))
    )
    sds = core.ConfigSource(resource_api_version=core.ApiVersion.V3, path_config_source=source)
    return tls.SdsSecretConfig(name=name, sds_config=sds)


def _hold_response(directory: Path) -> wasm_filter.Wasm:
    """The filter of envoy/hold_response.wat: no header goes down before the first body byte."""
    return wasm_filter.Wasm(
        config=wasm.PluginConfig(
            name="hold_response",
            failure_policy=wasm.FailurePolicy.FAIL_RELOAD,
            # Without it the filter could not hold headers: the stream would wait for ever.
            allow_on_headers_stop_iteration=True,
            vm_config=wasm.VmConfig(
                vm_id="hold_response",
                runtime="envoy.wasm.runtime.v8",
                code=core.AsyncDataSource(local=core.DataSource(filename=str(directory / HOLD_RESPONSE_WASM))),
            ),
        )
    )


def _tls(backend: Backend, host: str, directory: Path) -> core.TransportSocket:
    san_type = (
        tls.SubjectAltNameMatcherSanType.IP_ADDRESS if _all_addresses(backend) else tls.SubjectAltNameMatcherSanType.DNS
    )
    context = tls.UpstreamTlsContext(
        sni="" if _all_addresses(backend) else host,
        common_tls_context=_trust(
            backend, tls.SubjectAltNameMatcher(san_type=san_type, matcher=matcher.StringMatcher(exact=host)), directory
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _trust(backend: Backend, name: tls.SubjectAltNameMatcher, directory: Path) -> tls.CommonTlsContext:
    """Believes certificates of `name` from the backend's own authority, else from those that the system believes."""
    if backend.ca_file is not None:
        combined = tls.CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=tls.CertificateValidationContext(match_typed_subject_alt_names=[name]),
            validation_context_sds_secret_config=_secret(authority_name(backend), directory),
        )
        return tls.CommonTlsContext(alpn_protocols=["http/1.1"], combined_validation_context=combined)
    bundle = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    context = tls.CertificateValidationContext(
        trusted_ca=core.DataSource(filename=bundle), match_typed_subject_alt_names=[name]
    )
    return tls.CommonTlsContext(alpn_protocols=["http/1.1"], validation_context=context)
