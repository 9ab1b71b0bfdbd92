"""The names of the keys in Redis.

Replicas are shared by the tenants of all shards, so the queue is in one slot of a cluster. It has the hash tag of shard
0: with REDIS_SHARDS=1 an admission script can use the keys of the quota and those of the queue.
"""

from __future__ import annotations

PREFIX = "nz:{s0}:queue:3"
NAMES = (
    "state",
    "slots",
    "tickets",
    "leases",
    "line",
    "waiting",
    "pools",
    "virtual",
    "promotions",
    "bytes",
    "learning",
)

_OF_QUEUE = tuple(f"{PREFIX}:{name}" for name in NAMES)


def of_queue() -> list[str]:
    """The keys of every script, in the order of `queue.lua`."""
    return list(_OF_QUEUE)


def ended(request_id: str) -> str:
    """The key that exists while the request is remembered as ended."""
    return f"{PREFIX}:ended:{request_id}"


def channel(owner: str) -> str:
    """The channel on which `owner` is notified of the request ids whose turn it is."""
    return f"nz:queue:{owner}"
