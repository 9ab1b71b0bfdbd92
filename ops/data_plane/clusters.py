"""Backends as Envoy clusters, one each, built from Envoy's message classes in xds-protos. Pure.

A cluster has everything that belongs to one backend: its replicas, health checks, circuit breakers, TLS and filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.percent_pb2 import Percent
from envoy.type.v3.range_pb2 import Int64Range
from google.protobuf import any as packed
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.wire.names import cluster_name, replica_clusters
from gateway.wire.timeouts import attempt_wait_s
from ops.data_plane.cluster_json import HTTP_PROTOCOL_OPTIONS
from ops.data_plane.upstream_filters import http_protocol_options
from ops.data_plane.upstream_tls import transport_socket

CREDENTIAL_HEADERS = ("authorization", "x-api-key")
# Envoy adds them. It needs the first for its own routes, and no service may remove the second.
_ENVOY_HEADERS = ("x-forwarded-proto", "x-envoy-external-address")
_PENDING_PER_CONNECTION = 16
_REQUESTS_MAX = 10_000
# Requests without a slot of the cluster: those that Envoy moves there when another one fails.
_MOVED_MAX = 100


def render_clusters(settings: Settings, directory: Path) -> list[Cluster]:
    """Returns one cluster per backend. `directory` contains the SDS files and the hold filter.

    With a queue, each of several replicas has its own cluster too, so that a request reaches the replica whose slot it
    has.
    """
    credentials = (backend.auth_header.lower() for backend in settings.backends)
    stripped = sorted({*_ENVOY_HEADERS, *CREDENTIAL_HEADERS, *credentials})
    with_paths = any(backend.path for backend in settings.backends)
    queue_wait_s = settings.queue_max_wait_s if settings.has_queue else 0.0
    rendered = []
    for backend in settings.backends:
        urls_by_cluster = {cluster_name(backend.name): backend.urls}
        if settings.has_queue and len(backend.urls) > 1:
            names = replica_clusters(backend.name, backend.addresses)
            urls_by_cluster |= {name: (url,) for name, url in zip(names, backend.urls, strict=True)}
        for name, urls in urls_by_cluster.items():
            options = http_protocol_options(
                name,
                backend,
                stripped,
                directory,
                with_paths=with_paths,
                timeout_s=settings.ollama_read_timeout_s,
                wait_max_s=attempt_wait_s(queue_wait_s, settings.ollama_read_timeout_s),
            )
            rendered.append(_cluster(name, backend, urls, settings, options, directory))
    return rendered


def _cluster(
    name: str,
    backend: Backend,
    urls: Sequence[str],
    settings: Settings,
    options: HttpProtocolOptions,
    directory: Path,
) -> Cluster:
    host = urlsplit(backend.base_url).hostname or ""
    is_address = all(_has_ip_address(url) for url in urls)
    is_https = backend.base_url.startswith("https://")
    return Cluster(
        name=name,
        type=Cluster.STATIC if is_address else Cluster.STRICT_DNS,
        # Otherwise `localhost` resolves to ::1, where Ollama does not listen by default.
        dns_lookup_family=Cluster.V4_PREFERRED,
        lb_policy=Cluster.LEAST_REQUEST,
        connect_timeout=timedelta(seconds=settings.ollama_connect_timeout_s),
        load_assignment=_load_assignment(name, urls),
        common_lb_config=Cluster.CommonLbConfig(healthy_panic_threshold=Percent(value=0.0)),
        health_checks=[_health_check(host, f"{backend.path}/api/version")],
        outlier_detection=_OUTLIER_DETECTION,
        circuit_breakers=_circuit_breakers(_connections_max(backend, urls, settings)),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: packed.pack(options)},
        transport_socket=transport_socket(backend, host, directory, is_address=is_address) if is_https else None,
    )


def _has_ip_address(url: str) -> bool:
    try:
        ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True


def _load_assignment(name: str, urls: Sequence[str]) -> ClusterLoadAssignment:
    replicas = LocalityLbEndpoints(lb_endpoints=[_endpoint(url) for url in urls])
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[replicas, _TOMBSTONE],
        # With the default, one unhealthy replica of two would send a quarter of the requests to the tombstone.
        policy=ClusterLoadAssignment.Policy(overprovisioning_factor=UInt32Value(value=100_000)),
    )


def _endpoint(url: str) -> LbEndpoint:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return LbEndpoint(
        endpoint=Endpoint(
            address=Address(
                socket_address=SocketAddress(address=parts.hostname or "", port_value=port),
            ),
            hostname=parts.netloc,
        )
    )


# Envoy does not retry a request that finds no healthy host. The tombstone is an endpoint that refuses every connection,
# used only when no replica is healthy. The router retries its connection failure on the next backend.
_TOMBSTONE = LocalityLbEndpoints(
    priority=1,
    lb_endpoints=[
        LbEndpoint(
            endpoint=Endpoint(
                address=Address(socket_address=SocketAddress(address="127.0.0.1", port_value=1)),
                hostname="unavailable",
                health_check_config=Endpoint.HealthCheckConfig(disable_active_health_check=True),
            )
        )
    ],
)

# Only responses with 502, 503 and 504 eject a replica. Failed connections are left to the health check, which the
# tombstone does not have: ejection by failed connections would eject the tombstone too.
_OUTLIER_DETECTION = OutlierDetection(
    consecutive_gateway_failure=UInt32Value(value=5),
    enforcing_consecutive_gateway_failure=UInt32Value(value=100),
    enforcing_consecutive_5xx=UInt32Value(value=0),
    enforcing_success_rate=UInt32Value(value=0),
    split_external_local_origin_errors=True,
    enforcing_consecutive_local_origin_failure=UInt32Value(value=0),
    enforcing_local_origin_success_rate=UInt32Value(value=0),
    interval=timedelta(seconds=1),
    base_ejection_time=timedelta(seconds=10),
    max_ejection_time=timedelta(seconds=60),
    max_ejection_percent=UInt32Value(value=100),
    successful_active_health_check_uneject_host=BoolValue(value=False),
)


def _health_check(host: str, path: str) -> HealthCheck:
    """Accepts 401 and 403 too, because health checks bypass the upstream filters and carry no token."""
    return HealthCheck(
        timeout=timedelta(seconds=2),
        interval=timedelta(seconds=1),
        no_traffic_interval=timedelta(seconds=1),
        unhealthy_threshold=UInt32Value(value=2),
        healthy_threshold=UInt32Value(value=1),
        http_health_check=HealthCheck.HttpHealthCheck(
            host=host,
            path=path,
            expected_statuses=[
                Int64Range(start=200, end=300),
                Int64Range(start=401, end=402),
                Int64Range(start=403, end=404),
            ],
        ),
    )


def _connections_max(backend: Backend, urls: Sequence[str], settings: Settings) -> int:
    """With a queue the slots bound the connections. A lower bound would be a hidden line in Envoy."""
    if not settings.has_queue:
        return settings.ollama_max_connections
    slots = backend.slots_given * len(urls) or _REQUESTS_MAX
    return max(settings.ollama_max_connections, slots + _MOVED_MAX)


def _circuit_breakers(connections_max: int) -> CircuitBreakers:
    thresholds = CircuitBreakers.Thresholds(
        max_connections=UInt32Value(value=connections_max),
        # A request without a free connection waits. Beyond this backlog it is denied.
        max_pending_requests=UInt32Value(value=connections_max * _PENDING_PER_CONNECTION),
        max_requests=UInt32Value(value=_REQUESTS_MAX),
        # Counts concurrent retries of all requests. The default of 3 silently disables fail-over under load.
        max_retries=UInt32Value(value=10_000),
    )
    return CircuitBreakers(thresholds=[thresholds])
