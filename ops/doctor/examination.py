"""Runs all checks concurrently, each part with its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.settings import Settings
from ops.doctor import backends, configuration, data_plane, redis, services
from ops.doctor import postgres as postgresql
from ops.doctor.check import Check, failed

DEADLINE_S = 15.0
# All parts are checked at once, so the stores answer more slowly than the deadlines of requests allow.
STORE_TIMEOUT_S = 5.0

Part = Callable[[Settings], Awaitable[list[Check]]]

_PARTS: tuple[tuple[str, Part], ...] = (
    ("postgresql", postgresql.check),
    ("redis", redis.check),
    ("backends", backends.check),
    ("catalog", backends.check_catalog),
    ("services", services.check),
)


async def examine(settings: Settings, env_file: Path | None, public_url: str, ca_file: Path | None) -> list[Check]:
    """The results of all checks, in the order in which the parts depend on each other.

    Clients use the gateway at `public_url`. `ca_file` has the authority of its certificate if that is not a public one.
    """
    relaxed = settings.model_copy(
        update={"database_timeout_s": STORE_TIMEOUT_S, "redis_timeout_s": STORE_TIMEOUT_S},
    )
    parts = [(name, part(relaxed)) for name, part in _PARTS]
    parts.append(("envoy", data_plane.check(relaxed, public_url, ca_file)))
    by_part = await asyncio.gather(*(_with_deadline(name, part) for name, part in parts))
    return [*configuration.check(env_file), *(check for checks in by_part for check in checks)]


async def _with_deadline(name: str, part: Awaitable[list[Check]]) -> list[Check]:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await part
    except TimeoutError:
        return [failed(name, f"no answer within {DEADLINE_S:.0f} s", "check whether it hangs, and restart it")]
