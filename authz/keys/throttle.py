"""Failed authentications per client address, counted in Redis for all workers together."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

from authz.metrics import AUTH_FAILURES
from gateway.errors import Code, Denied
from gateway.stores.redis import Redis, guarded

WINDOW_S = 60
_PREFIX = "nz:authfail:"


class FailureThrottle:
    """At most `failures_max` failures per address in a minute that begins with the first of them."""

    def __init__(self, redis: Redis, failures_max: int, timeout_s: float) -> None:
        self._redis = redis
        self._failures_max = failures_max
        self._timeout_s = timeout_s

    async def check(self, address: str) -> None:
        """Raises Denied(auth_throttled), with the time to wait, for an address that failed too often.

        Raises StoreUnavailable when the count cannot be read.
        """
        key = _PREFIX + throttle_key(address)
        async with guarded(self._timeout_s):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.get(key)
            pipeline.ttl(key)
            failures, ttl_s = await pipeline.execute()
        if failures is not None and int(failures) >= self._failures_max:
            # TTL is in whole seconds, and the counter may live up to a second longer.
            raise Denied(Code.AUTH_THROTTLED, retry_after_s=max(ttl_s, 0) + 1)

    async def count(self, address: str) -> None:
        """Counts a failure. Raises StoreUnavailable."""
        AUTH_FAILURES.inc()
        key = _PREFIX + throttle_key(address)
        async with guarded(self._timeout_s):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.set(key, 0, ex=WINDOW_S, nx=True)
            pipeline.incr(key)
            await pipeline.execute()


def throttle_key(address: str) -> str:
    """The address itself; of an IPv6 address its /64, the usual size of one subscriber's network."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed, 64), strict=False).network_address)
    return str(parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else parsed)
