"""What Envoy's log said about answers that broke off, for a moment, so that every meter can ask for it."""

from __future__ import annotations

from gateway.stores.redis import Redis, guarded

_PREFIX = "nz:broken:"
_TTL_MS = 5000


class DisconnectStore:
    """One key for each such answer."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def note(self, request_id: str, by_upstream: bool) -> None:
        """Keeps it for some seconds. Raises StoreUnavailable."""
        async with guarded(self._timeout_s):
            await self._redis.set(_PREFIX + request_id, int(by_upstream), px=_TTL_MS)

    async def by_upstream(self, request_id: str) -> bool | None:
        """Whether it was the backend and not the caller; None when it is not known. Raises StoreUnavailable."""
        async with guarded(self._timeout_s):
            found = await self._redis.get(_PREFIX + request_id)
        return None if found is None else bool(int(found))
