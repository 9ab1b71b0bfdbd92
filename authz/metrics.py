"""The metrics of authz."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge

from gateway.errors import Code
from gateway.metrics.registry import CALL_BUCKETS_S, OTHER, REGISTRY, Histogram
from gateway.wire.surfaces import BY_PATH

WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)

CATALOG = "catalog"
"""The surface label of the pages that authz serves itself."""
OK = "ok"
"""The code label of an admitted request."""

REQUESTS = Counter(
    "neuronetz_authz_requests",
    "Decided requests by surface and error code; ok for admitted ones.",
    ("surface", "code"),
    registry=REGISTRY,
)
CHECK_SECONDS = Histogram(
    "neuronetz_check_seconds",
    "Time of the check of one request, from its key to its admission, without its wait.",
    CALL_BUCKETS_S,
).labels()
AUTH_FAILURES = Counter(
    "neuronetz_auth_failures", "Wrong keys that count against the throttle of an address.", registry=REGISTRY
)
ARGON2_PENDING = Gauge("neuronetz_argon2_pending", "Keys that are hashed or wait to be hashed.", registry=REGISTRY)
ARGON2_REJECTED = Counter(
    "neuronetz_argon2_rejected", "Keys that were not verified, because too many were waiting.", registry=REGISTRY
)
ARGON2_SECONDS = Histogram(
    "neuronetz_argon2_seconds", "Time to hash one key, including the wait for a thread.", CALL_BUCKETS_S
).labels()
CATALOG_VALID_SECONDS = Gauge(
    "neuronetz_catalog_valid_seconds",
    "Time for which this worker's copy of the catalog stays valid; at 0 requests receive 503.",
    registry=REGISTRY,
)

QUEUE_WAIT_SECONDS = Histogram(
    "neuronetz_queue_wait_seconds", "Time that a request waited in the queue.", WAIT_BUCKETS_S
).labels()
QUEUE_WAITING = Gauge("neuronetz_queue_waiting", "Requests of this worker that wait in the queue.", registry=REGISTRY)

# Bounded like the label values. A lookup by `labels` takes several times longer.
_requests = cache(REQUESTS.labels)


def count_request(path: str, code: Code | None, *, is_page: bool = False) -> None:
    """Counts a request to `path`: its denial with `code`, None when it was admitted.

    `is_page` is true for the pages of the catalog. A path without a surface counts as `other`.
    """
    surface = BY_PATH.get(path)
    _requests(CATALOG if is_page else surface.name if surface else OTHER, code or OK).inc()
