"""Names on Redis. Every key carries its shard's hash tag, so that a script touches one slot of a cluster."""

from __future__ import annotations

GROUP = "drain"


def tag(shard: int) -> str:
    """The beginning of every key of a shard."""
    return f"nz:{{s{shard}}}"


def of_shard(shard: int) -> list[str]:
    """HOLDS, DEADLINES, EVENTS and EPOCH, in the order of `shared.lua`."""
    return [f"{tag(shard)}:{name}" for name in ("holds", "deadlines", "events", "epoch")]


def of_tenant(shard: int, tenant_id: int) -> list[str]:
    """What a shard has, and COUNTERS, REBUILD and CALIBRATION of a tenant."""
    return [*of_shard(shard), *(f"{tag(shard)}:{name}:{tenant_id}" for name in ("counters", "rebuild", "calibration"))]


def of_request(shard: int, tenant_id: int, key_id: int, request_id: str) -> list[str]:
    """What a tenant has, and TENANT_WINDOW, KEY_WINDOW and FINISHED of a request."""
    prefix = tag(shard)
    return [
        *of_tenant(shard, tenant_id),
        f"{prefix}:window:{tenant_id}",
        f"{prefix}:window:{tenant_id}:{key_id}",
        finished(shard, request_id),
    ]


def finished(shard: int, request_id: str) -> str:
    """How the request ended."""
    return f"{tag(shard)}:finished:{request_id}"


def events(shard: int) -> str:
    """The shard's event stream."""
    return of_shard(shard)[2]


def rebuild(shard: int, tenant_id: int) -> str:
    """The token of the tenant's rebuild that is under way."""
    return of_tenant(shard, tenant_id)[5]
