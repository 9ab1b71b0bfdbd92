"""The metrics of the queue: the slots of each replica, who runs and waits, and how evenly tenants share the slots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from prometheus_client import Gauge

from gateway.metrics.registry import OTHER, REGISTRY, BoundedNames
from gateway.queue.port import QueueStatus
from gateway.wire.names import backend_of

_REPLICA_LABELS = ("backend", "replica")
SLOTS = Gauge("neuronetz_queue_slots", "Requests that the replica runs at a time.", _REPLICA_LABELS, registry=REGISTRY)
RUNNING = Gauge("neuronetz_queue_running", "Slots of the replica in use.", _REPLICA_LABELS, registry=REGISTRY)
TICKETS = Gauge(
    "neuronetz_queue_tickets", "Requests that wait for a slot of the replica.", _REPLICA_LABELS, registry=REGISTRY
)
SUSPENDED = Gauge(
    "neuronetz_queue_suspended",
    "1 while no slot of the replica is granted, because Envoy knows it as unavailable, else 0.",
    _REPLICA_LABELS,
    registry=REGISTRY,
)
SHARE = Gauge(
    "neuronetz_queue_share",
    "Share of the weighted tokens of the tenants that run or wait, since no request did either.",
    ("tenant",),
    registry=REGISTRY,
)
FAIRNESS = Gauge(
    "neuronetz_queue_fairness",
    "Jain's index of the weighted tokens of the tenants that wait: 1 when they are equal; NaN for less than two.",
    registry=REGISTRY,
)


def set_queue(status: QueueStatus, backends: Collection[str], tenants: Mapping[int, str], names: BoundedNames) -> None:
    """Sets the gauges. `backends` are those in use, `tenants` the names of the tenants by their ids."""
    clear()
    tickets = Counter(replica for ticket in status.tickets for replica in ticket.replicas)
    for replica, each in status.replicas.items():
        backend = backend_of(replica)
        if backend is not None and backend in backends:
            SLOTS.labels(backend, replica).set(each.slots)
            RUNNING.labels(backend, replica).set(each.running)
            TICKETS.labels(backend, replica).set(tickets[replica])
            SUSPENDED.labels(backend, replica).set(each.is_suspended)
    tokens: Counter[str] = Counter()
    for tenant_id, tenant in status.tenants.items():
        label = names.label(tenants[tenant_id]) if tenant_id in tenants else OTHER
        tokens[label] += round(tenant.virtual_tokens)
    for label, virtual_tokens in tokens.items():
        SHARE.labels(label).set(virtual_tokens / max(1, tokens.total()))
    FAIRNESS.set(jain_index([each.virtual_tokens for each in status.tenants.values() if each.waiting]))


def clear() -> None:
    """Removes every value, because the state of the queue is unknown."""
    for gauge in (SLOTS, RUNNING, TICKETS, SUSPENDED, SHARE):
        gauge.clear()
    FAIRNESS.set(math.nan)


def jain_index(shares: Sequence[float]) -> float:
    """1 when all shares are equal, 1/n when one of n has everything. NaN for less than two, or when all are 0.

    Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301, 1984.
    """
    squares = sum(share**2 for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if len(shares) > 1 and squares else math.nan
