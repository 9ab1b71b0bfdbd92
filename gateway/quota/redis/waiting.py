"""The events of one shard that wait for the ledger, by tenant: what a rebuild of counters has to add to the ledger."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.quota.redis import keys
from gateway.stores.redis import Redis, guarded

# Events per call, so that no call stops Redis for long.
EVENTS_SLICE = 500
# How long the events are retained for further rebuilds, from the first of them on. It bounds their number.
REUSE_S = 10.0


@dataclass(slots=True)
class _Read:
    """The events of an epoch that were read so far, and the id of the youngest."""

    epoch: str
    by_tenant: defaultdict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    youngest: str | None = None


class WaitingEvents:
    """Reads the stream once for many rebuilds: each reads only the events that were appended after the previous one.

    An event that has left the stream in the meantime is in the ledger, and a rebuild does not count it again. An event
    that is appended during a rebuild voids it if it concerns the same tenant. So the slices need no snapshot. A new
    epoch may have lost events, so nothing that was read in another one is used.
    """

    def __init__(self, redis: Redis, shard: int, timeout_s: float) -> None:
        self._redis = redis
        self._events = keys.events(shard)
        self._timeout_s = timeout_s
        self._reading = asyncio.Lock()
        self._read: _Read | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def of(self, tenant_id: int, epoch: str) -> Sequence[str]:
        """The events of a tenant, raw: those that wait at the time of the call, and possibly some that the ledger has.

        `epoch` is the epoch's name after which the caller began. Raises StoreUnavailable.
        """
        async with self._reading:
            read = self._read
            if read is None or read.epoch != epoch:
                self.forget()
                read = self._read = _Read(epoch)
                self._expiry = asyncio.get_running_loop().call_later(REUSE_S, self.forget)
            await self._extend(read)
            return tuple(read.by_tenant.get(b"%d" % tenant_id, ()))

    def forget(self) -> None:
        """Drops the events."""
        self._read = None
        if self._expiry:
            self._expiry.cancel()

    async def _extend(self, read: _Read) -> None:
        """Reads the events after the youngest one."""
        while True:
            start = "-" if read.youngest is None else f"({read.youngest}"
            async with guarded(self._timeout_s):
                events: Any = await self._redis.xrange(self._events, min=start, count=EVENTS_SLICE)
            for event_id, fields in events:
                read.youngest = event_id.decode()
                if b"t" in fields and b"e" in fields:
                    read.by_tenant[fields[b"t"]].append(fields[b"e"].decode("utf-8", "replace"))
            if len(events) < EVENTS_SLICE:
                return
