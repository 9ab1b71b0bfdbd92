"""Suspends the replicas in the queue that Envoy knows as unavailable, so that none of their slots are granted.

Each Envoy has its own control, and one Envoy that reaches no replica suspends all of them, which has no effect on the
queue: a request whose candidates are all suspended gets a slot.
"""

from __future__ import annotations

from typing import Protocol

from gateway.loops import forever
from gateway.queue.port import Queue
from gateway.wire.names import backend_of

# Envoy checks the health of each host once a second.
INTERVAL_S = 1.0
# A replica is suspended until two intervals after it is available again at the latest.
SUSPENSION_S = 3.0


class ClusterHealth(Protocol):
    """What Envoy knows about the health of its clusters."""

    async def unavailable_clusters(self) -> frozenset[str]:
        """The names of the clusters without a usable host. Raises StoreUnavailable."""
        ...


class ReplicaHealth:
    """`run` repeats `update` every INTERVAL_S. While every replica is available, it calls no store."""

    def __init__(self, envoy: ClusterHealth, queue: Queue) -> None:
        self._envoy = envoy
        self._queue = queue

    async def run(self) -> None:
        """Runs until cancelled."""
        await forever(self.update, INTERVAL_S, on_error="replica_health_unknown")

    async def update(self) -> None:
        """Suspends the replicas that are unavailable now. Raises StoreUnavailable."""
        names = sorted(filter(backend_of, await self._envoy.unavailable_clusters()))
        await self._queue.suspend(names, SUSPENSION_S)
