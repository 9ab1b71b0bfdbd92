"""The entries that a process still has to store."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from gateway.metrics.registry import REGISTRY

PENDING = Gauge(
    "neuronetz_outbox_pending", "Entries that wait for Redis, by lane of the outbox.", ("lane",), registry=REGISTRY
)
UNCONFIRMED = Gauge(
    "neuronetz_outbox_unconfirmed",
    "Entries that Redis has and that the process retains until PostgreSQL has them too.",
    registry=REGISTRY,
)
DENIALS_DROPPED = Counter(
    "neuronetz_denials_dropped", "Denials without an audit row, because the backlog was full.", registry=REGISTRY
)
