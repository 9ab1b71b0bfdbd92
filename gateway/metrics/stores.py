"""The latency and the failures of Redis and PostgreSQL, as this process experiences them."""

from __future__ import annotations

from prometheus_client import Counter

from gateway.metrics.registry import CALL_BUCKETS_S, REGISTRY, Histogram

REDIS_SCRIPT_SECONDS = Histogram(
    "neuronetz_redis_script_seconds",
    "Time of a call to one of the quota's Lua scripts that Redis answered.",
    CALL_BUCKETS_S,
    ("script",),
)
REDIS_FAILURES = Counter(
    "neuronetz_redis_failures", "Calls that Redis rejected or did not answer in time.", registry=REGISTRY
)
REDIS_EPOCHS = Counter("neuronetz_redis_epochs", "Times that Redis was restarted or lost its data.", registry=REGISTRY)
POSTGRES_SECONDS = Histogram(
    "neuronetz_postgres_seconds",
    "Time of a use of a PostgreSQL connection, including the wait for a free one.",
    CALL_BUCKETS_S,
).labels()
POSTGRES_FAILURES = Counter(
    "neuronetz_postgres_failures", "Uses that PostgreSQL rejected or did not answer in time.", registry=REGISTRY
)
