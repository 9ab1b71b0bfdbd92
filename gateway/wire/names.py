"""Names that two parts must agree on: Envoy clusters, and the headers between Envoy and the services."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

# Sets the number of retries of one request. Envoy's router consumes it and never forwards it.
MAX_RETRIES_HEADER = "x-envoy-max-retries"

INTERNAL_PREFIX = "x-nz-"
"""The prefix of the headers between Envoy and the services, which no backend and no caller receives."""
# The address that made the connection. Envoy sets it and removes it from requests of callers.
PEER_HEADER = "x-nz-peer"
REQUEST_ID_HEADER = "x-request-id"
BACKEND_HEADER = "x-gateway-backend"
ERROR_HEADER = "x-gateway-error"
DROPPED_OPTIONS_HEADER = "x-gateway-dropped-options"
OUTPUT_CAP_HEADER = "x-gateway-output-cap"
QUEUE_WAIT_HEADER = "x-queue-wait-ms"

EXPOSED_HEADERS = (
    REQUEST_ID_HEADER,
    "request-id",
    ERROR_HEADER,
    BACKEND_HEADER,
    DROPPED_OPTIONS_HEADER,
    OUTPUT_CAP_HEADER,
    QUEUE_WAIT_HEADER,
    "retry-after",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-budget-period",
    "x-budget-tokens-remaining",
)
"""The headers of answers that scripts in a browser may read."""

# The hold filter gives this status to a backend's 2xx that is not recognised as an answer of the surface. Envoy then
# tries the next candidate. Ollama sends no such status, and Envoy ejects no replica for it.
NOT_AN_ANSWER = 520
# The hold filter gives this status to Ollama's 503 of a server that has too many pending requests. Envoy then tries the
# next candidate, or the last one again after a back-off of as many seconds as the header has.
SERVER_BUSY = 521
RETRY_AFTER_HEADER = "x-nz-retry-after"
# The hold filter sets it on each further attempt of a request with a slot, which waits for a slot at its replica.
FURTHER_ATTEMPT_HEADER = "x-nz-attempt"
# What Envoy reports to the meter about a further attempt.
CLUSTER_ATTRIBUTE = "xds.cluster_name"
ATTEMPT_NUMBER_ATTRIBUTE = "upstream.request_attempt_count"
# The hold filter sets it on an answer whose body is one JSON document and comes in one piece.
HELD_WHOLE_HEADER = "x-nz-held-whole"
# The cluster of a backend sets it to its name on every answer. Envoy's own replies do not have it.
CLUSTER_HEADER = "x-nz-cluster"

# The names in the certificates of the services when Envoy reaches them over a network. They are the same on every host.
AUTHZ_TLS_NAME = "authz.neuronetz-gateway"
METER_TLS_NAME = "meter.neuronetz-gateway"

_CLUSTER_PREFIX = "backend:"


def cluster_name(backend: str) -> str:
    """The name of the Envoy cluster of a backend."""
    return _CLUSTER_PREFIX + backend


def replica_clusters(backend: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """The Envoy clusters of the single replicas of a backend, by their addresses `HOST[:PORT]`.

    The cluster of a backend with one replica is that of the replica. Its queue has the same name.
    """
    if len(addresses) < 2:
        return (cluster_name(backend),)
    return tuple(f"{cluster_name(backend)}:{_digest(address)}" for address in addresses)


def backend_of(cluster: str) -> str | None:
    """The backend whose cluster this is, or the cluster of one of its replicas. None for any other cluster."""
    return cluster.split(":")[1] if cluster.startswith(_CLUSTER_PREFIX) else None


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:8]
