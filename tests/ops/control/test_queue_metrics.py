"""The metrics of the queue from its status."""

from __future__ import annotations

import math

import pytest

from gateway.metrics.registry import OTHER, REGISTRY, BoundedNames
from gateway.queue.port import QueueStatus, ReplicaStatus, TenantStatus, TicketStatus
from ops.control import queue_metrics

NEAR, REMOVED = "backend:near", "backend:removed"
STATUS = QueueStatus(
    {NEAR: ReplicaStatus(2, 2, is_learnt=True, is_suspended=True), REMOVED: ReplicaStatus(1, 0)},
    {1: TenantStatus(1, 1, 30.0), 2: TenantStatus(0, 1, 10.0), 3: TenantStatus(1, 0, 60.0)},
    (TicketStatus(5, 1, 11, (NEAR,)), TicketStatus(6, 2, 21, (NEAR, REMOVED))),
)


def value(name: str, **labels: str) -> float | None:
    """The value of a gauge."""
    return REGISTRY.get_sample_value(name, labels)


def test_the_status_becomes_gauges_of_the_backends_in_use() -> None:
    queue_metrics.set_queue(STATUS, {"near"}, {1: "acme", 2: "beta"}, BoundedNames(10))
    labels = {"backend": "near", "replica": NEAR}
    names = ("neuronetz_queue_slots", "neuronetz_queue_running", "neuronetz_queue_tickets")
    assert [value(name, **labels) for name in names] == [2, 2, 2]
    assert value("neuronetz_queue_suspended", **labels) == 1
    assert value("neuronetz_queue_slots", backend="removed", replica=REMOVED) is None
    shares = [value("neuronetz_queue_share", tenant=name) for name in ("acme", "beta", OTHER)]
    assert shares == [0.3, 0.1, 0.6]
    assert value("neuronetz_queue_fairness") == pytest.approx(40**2 / (2 * (30**2 + 10**2)))
    queue_metrics.clear()
    assert value("neuronetz_queue_slots", **labels) is None
    assert math.isnan(value("neuronetz_queue_fairness") or 0)


@pytest.mark.parametrize(("shares", "index"), [([1.0, 1.0, 1.0], 1.0), ([5.0, 0.0], 0.5)])
def test_jains_index_is_one_for_equal_shares_and_one_in_n_for_a_single_one(shares: list[float], index: float) -> None:
    assert queue_metrics.jain_index(shares) == index


@pytest.mark.parametrize("shares", [[], [3.0], [0.0, 0.0]])
def test_less_than_two_tenants_have_no_index(shares: list[float]) -> None:
    assert math.isnan(queue_metrics.jain_index(shares))
