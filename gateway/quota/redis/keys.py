"""The names of the keys in Redis. Each has its shard's hash tag, so that a script touches one slot of a cluster."""

from __future__ import annotations

from functools import lru_cache

GROUP = "drain"


def tag(shard: int) -> str:
    """The prefix of every key of a shard, with its hash tag."""
    return f"nz:{{s{shard}}}"


def of_shard(shard: int) -> list[str]:
    """HOLDS, DEADLINES, EVENTS and EPOCH, in the order of `shared.lua`."""
    return [f"{tag(shard)}:{name}" for name in ("holds", "deadlines", "events", "epoch")]


def of_tenant(shard: int, tenant_id: int) -> list[str]:
    """The keys of the shard, and COUNTERS, REBUILD, CALIBRATION, HELD and STAGED of a tenant."""
    names = ("counters", "rebuild", "calibration", "held:3", "staged")
    return [*of_shard(shard), *(f"{tag(shard)}:{name}:{tenant_id}" for name in names)]


def of_request(shard: int, tenant_id: int, key_id: int, request_id: str) -> list[str]:
    """The keys of the tenant, and TENANT_WINDOW, KEY_WINDOW and FINISHED of a request."""
    return [*_of_key(shard, tenant_id, key_id), finished(shard, request_id)]


@lru_cache(maxsize=4096)
def _of_key(shard: int, tenant_id: int, key_id: int) -> tuple[str, ...]:
    prefix = tag(shard)
    window = f"{prefix}:window:3:{tenant_id}"
    return (*of_tenant(shard, tenant_id), window, f"{window}:{key_id}")


def of_renewal(shard: int, tenant_id: int, request_id: str) -> list[str]:
    """HELD and FINISHED of a request, which `renew_all.lua` takes for each hold."""
    return [held(shard, tenant_id), finished(shard, request_id)]


def finished(shard: int, request_id: str) -> str:
    """The key that records how the request ended."""
    return f"{tag(shard)}:finished:{request_id}"


def events(shard: int) -> str:
    """The shard's event stream."""
    return of_shard(shard)[2]


def counters(shard: int, tenant_id: int) -> str:
    """The tenant's COUNTERS."""
    return of_tenant(shard, tenant_id)[4]


def held(shard: int, tenant_id: int) -> str:
    """The tenant's HELD."""
    return of_tenant(shard, tenant_id)[7]
