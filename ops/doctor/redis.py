"""Checks that Redis is reachable and new enough, never evicts, and persists what it accepts."""

from __future__ import annotations

from typing import Any

from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.stores.redis import connect, guarded
from ops.doctor.check import Check, failed, ok, warning

OLDEST = (6, 2)
_NAME = "redis"


async def check(settings: Settings) -> list[Check]:
    """Checks every node of a cluster, or the single server."""
    redis = connect(settings)
    try:
        async with guarded(settings.redis_timeout_s):
            info: dict[str, Any] = await redis.info()
    except StoreUnavailable as error:
        return [failed(_NAME, str(error), "start Redis, or correct REDIS_URL and its password")]
    finally:
        await redis.aclose()
    nodes = {"": info} if "redis_version" in info else info
    return [check for node, of_node in nodes.items() for check in assess(f"{_NAME} {node}".strip(), of_node)]


def assess(name: str, info: dict[str, Any]) -> list[Check]:
    """Checks the version, the eviction policy and the persistence in the INFO of one server."""
    version, policy = str(info.get("redis_version", "?")), str(info.get("maxmemory_policy", "?"))
    persists = bool(info.get("aof_enabled"))
    checks = []
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        checks.append(failed(name, f"version {version} is older than {oldest}", f"upgrade it to {oldest} or newer"))
    if policy != "noeviction":
        remedy = "set maxmemory-policy to noeviction"
        checks.append(failed(name, f"maxmemory-policy is {policy}: counters and holds can be evicted", remedy))
    if not persists:
        remedy = "set appendonly to yes"
        checks.append(warning(name, "no append-only file: a crash loses audit rows that wait for PostgreSQL", remedy))
    return checks or [ok(name, f"version {version}, noeviction, append-only file")]
