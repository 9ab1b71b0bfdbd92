"""The causes of broken-off answers that Envoy's log reports, kept for a moment where every meter can read them."""

from __future__ import annotations

from gateway.stores.redis import Redis, guarded

_PREFIX = "nz:broken:"
_TTL_MS = 5000


class DisconnectStore:
    """One key in Redis for each broken-off answer."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def note(self, request_id: str, by_upstream: bool) -> None:
        """Stores the cause for _TTL_MS. Raises StoreUnavailable."""
        async with guarded(self._timeout_s):
            await self._redis.set(_PREFIX + request_id, int(by_upstream), px=_TTL_MS)

    async def by_upstream(self, request_id: str) -> bool | None:
        """Whether the backend, not the caller, ended the answer; None when it is unknown. Raises StoreUnavailable."""
        async with guarded(self._timeout_s):
            found = await self._redis.get(_PREFIX + request_id)
        return None if found is None else bool(int(found))
