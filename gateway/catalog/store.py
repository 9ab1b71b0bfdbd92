"""The published catalog in Redis: one hash of version and snapshot with a time to live, and a channel of changes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.catalog.snapshot import Catalog
from gateway.errors import StoreUnavailable
from gateway.stores.redis import Redis, guarded, subscription

KEY = "nz:catalog"
CHANNEL = "nz:catalog:changed"
MISSING_CHANNEL = "nz:catalog:missing"

# How often a reader fetches the snapshot without a notification, because a notification can be lost.
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A published snapshot. `catalog` is None when the reader has this version already."""

    version: str
    ttl_s: float
    catalog: Catalog | None


class CatalogStore:
    """The place where `control` publishes the snapshot and `authz` reads it."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def publish(self, catalog: Catalog, ttl_s: float) -> None:
        """Replaces the snapshot, which is valid for `ttl_s`, and notifies the readers. Raises StoreUnavailable."""
        text = catalog.to_json()
        version = hashlib.sha256(text.encode()).hexdigest()
        async with guarded(self._timeout_s):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hset(KEY, mapping={"version": version, "snapshot": text})
            pipeline.pexpire(KEY, int(ttl_s * 1000))
            await pipeline.execute()
            await self._redis.publish(CHANNEL, version)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """Subscribes to changes and yields a function that waits for the next one, at most the given seconds.

        A notification may be lost with a connection, so readers also poll. Both raise StoreUnavailable.
        """
        async with subscription(self._redis, CHANNEL, self._timeout_s) as next_message:

            async def next_change(timeout_s: float) -> None:
                await next_message(timeout_s)

            yield next_change

    async def report_missing(self, backend: str) -> None:
        """Notifies `control` that this backend lacks a model of the catalog. Raises StoreUnavailable."""
        async with guarded(self._timeout_s):
            await self._redis.publish(MISSING_CHANNEL, backend)

    @asynccontextmanager
    async def missing_reports(self) -> AsyncIterator[Callable[[float], Awaitable[str | None]]]:
        """Subscribes to the reports and yields a function that waits for the next one, at most the given seconds.

        It returns the name of a backend, or None. A report may be lost with a connection. Both raise StoreUnavailable.
        """
        async with subscription(self._redis, MISSING_CHANNEL, self._timeout_s) as next_message:

            async def next_report(timeout_s: float) -> str | None:
                message = await next_message(timeout_s)
                return None if message is None else message.decode(errors="replace")

            yield next_report

    async def fetch(self, unless_version: str) -> Snapshot | None:
        """The snapshot, without its content when its version is `unless_version`; None when there is none.

        Raises StoreUnavailable, also for a snapshot that cannot be read.
        """
        async with guarded(self._timeout_s):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hget(KEY, "version")
            pipeline.pttl(KEY)
            raw_version, ttl_ms = await pipeline.execute()
        if raw_version is None or ttl_ms <= 0:
            return None
        version = raw_version.decode() if isinstance(raw_version, bytes) else str(raw_version)
        if version == unless_version:
            return Snapshot(version, ttl_ms / 1000, None)
        async with guarded(self._timeout_s):
            raw = await self._redis.hmget(KEY, ["version", "snapshot"])
        if raw[0] is None or raw[1] is None:
            return None
        try:
            version = raw[0].decode() if isinstance(raw[0], bytes) else str(raw[0])
            return Snapshot(version, ttl_ms / 1000, Catalog.from_json(raw[1]))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable("the published catalog cannot be read") from error
