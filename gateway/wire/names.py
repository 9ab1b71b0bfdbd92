"""Names that two services must agree on: Envoy clusters and the headers between Envoy and our services."""

from __future__ import annotations

# How Envoy's router is told about the attempts of one request; consumed by it and never forwarded.
MAX_RETRIES_HEADER = "x-envoy-max-retries"

# Set by Envoy, which takes it away from whoever sends it: the address that made the connection.
PEER_HEADER = "x-nz-peer"
REQUEST_ID_HEADER = "x-request-id"
BACKEND_HEADER = "x-gateway-backend"
ERROR_HEADER = "x-gateway-error"
DROPPED_OPTIONS_HEADER = "x-gateway-dropped-options"

# What the services' certificates are made out for when Envoy reaches them over a network, whatever host they run on.
AUTHZ_TLS_NAME = "authz.neuronetz-gateway"
METER_TLS_NAME = "meter.neuronetz-gateway"

_CLUSTER_PREFIX = "backend:"


def cluster_name(backend: str) -> str:
    """Name of the Envoy cluster of a backend."""
    return _CLUSTER_PREFIX + backend


def backend_of(cluster: str) -> str | None:
    """The backend whose cluster this is, None for a cluster that is no backend's."""
    return cluster.removeprefix(_CLUSTER_PREFIX) if cluster.startswith(_CLUSTER_PREFIX) else None
