"""Replicas that Envoy knows as unavailable get no slot."""

from __future__ import annotations

import json

import pytest

from gateway.queue.port import Turn
from ops.control.replica_health import SUSPENSION_S, ReplicaHealth
from ops.data_plane.admin import unavailable_clusters
from tests.gateway.queue.builders import RULES, replicas, ticket
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.quota.builders import Clock

HEALTHY, FAILED, EJECTED = (
    {"eds_health_status": "HEALTHY"},
    {"failed_active_health_check": True},
    {"failed_outlier_check": True},
)
PENDING = {"failed_active_health_check": True, "pending_active_hc": True}
TOMBSTONE = {"priority": 1, "health_status": HEALTHY}


def clusters(**hosts: list[dict[str, object]]) -> str:
    """Envoy's text about these clusters, each with the tombstone."""
    return json.dumps(
        {
            "cluster_statuses": [
                {"name": name, "host_statuses": [*({"health_status": each} for each in states), TOMBSTONE]}
                for name, states in hosts.items()
            ]
        }
    )


@pytest.mark.parametrize(
    ("hosts", "is_unavailable"),
    [
        ([HEALTHY], False), ([FAILED], True), ([EJECTED], True), ([FAILED, HEALTHY], False), ([FAILED, EJECTED], True),
        ([PENDING], False), ([], False),
    ],
)  # fmt: skip
def test_a_cluster_is_unavailable_when_every_host_is(hosts: list[dict[str, object]], is_unavailable: bool) -> None:
    assert unavailable_clusters(clusters(a=hosts)) == (frozenset("a") if is_unavailable else frozenset())


@pytest.mark.parametrize("text", ["[]", "{}", '{"cluster_statuses": [5]}', "-"])
def test_another_text_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a list|Expecting value"):
        unavailable_clusters(text)


class OneEnvoy:
    """Envoy, of whose clusters these are unavailable."""

    def __init__(self) -> None:
        self.unavailable = frozenset({"backend:a", "meter"})

    async def unavailable_clusters(self) -> frozenset[str]:
        return self.unavailable


async def test_an_unavailable_replica_gets_no_slot_until_it_is_available_again() -> None:
    queue, envoy = MemoryQueue(clock := Clock(), RULES), OneEnvoy()
    health = ReplicaHealth(envoy, queue)
    for _ in range(3):
        await health.update()
        clock.forward(1)
        turn = await queue.enter(ticket(candidates=replicas("backend:a", "backend:b", slots=5)))
        assert isinstance(turn, Turn)
        assert turn.replica == "backend:b"
    envoy.unavailable = frozenset()
    clock.forward(SUSPENSION_S)
    await health.update()
    turn = await queue.enter(ticket(candidates=replicas("backend:a", "backend:b", slots=5)))
    assert isinstance(turn, Turn)
    assert turn.replica == "backend:a"
