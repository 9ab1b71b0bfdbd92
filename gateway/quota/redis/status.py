"""Reads what the quota knows of one tenant and key, without reserving anything: rate windows, and the calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any

from gateway.quota.redis import keys
from gateway.settings import Settings
from gateway.stores.redis import Redis, guarded

# As in `admit.lua` and `calibration.lua`.
WINDOW_S = 60
WINDOW_MS = 1000 * WINDOW_S
_FACTOR_RANGE = (200, 8000)
# As in `window.lua`.
_BUCKET = Struct("<ddd")


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """The requests and tokens of the last minute, and the whole seconds until they have left the window."""

    requests: int
    tokens: int
    resets_in_s: int


class QuotaStatus:
    """Both methods raise StoreUnavailable. `now` returns seconds since the epoch."""

    def __init__(self, redis: Redis, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._redis = redis
        self._shards = settings.redis_shards
        self._timeout_s = settings.redis_timeout_s

    async def windows(self, tenant_id: int, key_id: int) -> tuple[WindowStatus, WindowStatus]:
        """The windows of the tenant and of the key."""
        *_, tenant_window, key_window, _ = keys.of_request(tenant_id % self._shards, tenant_id, key_id, "")
        async with guarded(self._timeout_s):
            found: list[Any] = [await self._redis.hgetall(name) for name in (tenant_window, key_window)]
        now_ms = int(self._now() * 1000)
        tenant, key = (window_status(fields, now_ms) for fields in found)
        return tenant, key

    async def corrected(self, tenant_id: int, model: str, tokens: int) -> int:
        """The estimate `tokens` of a prompt, corrected as an admission of this tenant and model would correct it."""
        calibration = keys.of_tenant(tenant_id % self._shards, tenant_id)[6]
        async with guarded(self._timeout_s):
            known = await self._redis.hget(calibration, model)
        return corrected(None if known is None else _text(known), tokens)


def window_status(fields: Mapping[bytes, bytes], now_ms: int) -> WindowStatus:
    """The status of a window that has these fields (see `window.lua`) at `now_ms`."""
    requests = tokens = youngest = 0
    for name, value in fields.items():
        if name == b"sums":
            continue
        requests_of_second, tokens_of_second, youngest_of_second = map(int, _BUCKET.unpack(value))
        if youngest_of_second + WINDOW_MS > now_ms:
            requests += requests_of_second
            tokens += tokens_of_second
            youngest = max(youngest, youngest_of_second)
    left_ms = youngest + WINDOW_MS - now_ms if youngest else 0
    return WindowStatus(requests, tokens, -(-max(left_ms, 0) // 1000))


def corrected(known: str | None, tokens: int) -> int:
    """`tokens` by the calibration `mean:deviation` in thousandths, None for none; as `calibration.lua` does."""
    if known is None:
        return tokens
    mean, _, deviation = known.partition(":")
    low, high = _FACTOR_RANGE
    return -(-tokens * max(low, min(high, int(mean) + 2 * int(deviation))) // 1000)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
