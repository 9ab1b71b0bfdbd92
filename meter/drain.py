"""Moves settled entries from the event stream into PostgreSQL: read, append in one transaction, acknowledge.

Delivery is at least once and appending is idempotent, so an entry is recorded once whatever dies in between.

One that is recorded already may have been counted twice: Redis lost its memory of the request after that, in whole or
in part, and was told again how it ended. One that Redis lost before it was recorded may not be counted at all: the
counters were rebuilt in between. In both cases they are rebuilt from the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeVar

import structlog

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.quota.port import Event, EventStream, Quota
from gateway.record.entry import Entry

log = structlog.get_logger()
T = TypeVar("T")

BATCH_MAX = 200
BLOCK_MS = 500
RETRY_S = 0.5
# What comes while it waits shares one transaction. Only a full batch is followed at once.
GATHER_S = 0.1
# What another consumer took this long ago and never acknowledged died with it.
CLAIM_AFTER_MS = 10_000
CLAIM_EVERY_S = 5.0


class Drain:
    """One consumer, of one name in the group, on every shard's stream."""

    def __init__(self, quota: Quota, ledger: Ledger, consumer: str) -> None:
        self._quota = quota
        self._ledger = ledger
        self._consumer = consumer

    async def run(self) -> None:
        """Drains for ever; while either store is away the entries wait in the stream."""
        async with asyncio.TaskGroup() as tasks:
            for stream in self._quota.streams:
                tasks.create_task(self._follow(stream))

    async def _follow(self, stream: EventStream) -> None:
        loop = asyncio.get_running_loop()
        claim_at = loop.time()
        while True:
            try:
                if loop.time() >= claim_at:
                    claim_at = loop.time() + CLAIM_EVERY_S
                    await self._record(stream, await stream.claim(self._consumer, BATCH_MAX, CLAIM_AFTER_MS))
                events = await stream.read(self._consumer, BATCH_MAX, BLOCK_MS)
                await self._record(stream, events)
                if 0 < len(events) < BATCH_MAX:
                    await asyncio.sleep(GATHER_S)
            except StoreUnavailable as error:
                log.warning("drain_waits", reason=str(error))
                # What was read and not recorded is claimed again, by this consumer or another.
                await asyncio.sleep(RETRY_S)

    async def _record(self, stream: EventStream, events: list[Event]) -> None:
        if not events:
            return
        entries = []
        for event in events:
            try:
                entries.append(Entry.from_json(event.text))
            except ValueError as error:
                # It would be read for ever; the log keeps what can be kept of it.
                log.error("event_unreadable", event_id=event.id, text=event.text, reason=type(error).__name__)
        # Before the acknowledgement: an event that is not acknowledged comes again.
        await self._invalidate_counters(await self._ledger.append(entries), "recorded_before")
        ids = [event.id for event in events]
        if await _retry_until_stored(lambda: stream.acknowledge(ids)):
            await self._invalidate_counters({entry.tenant_id for entry in entries}, "lost_before_recorded")

    async def _invalidate_counters(self, tenant_ids: Collection[int | None], reason: str) -> None:
        for tenant_id in tenant_ids:
            if tenant_id is not None:
                log.info("counters_in_doubt", tenant_id=tenant_id, reason=reason)
                await _retry_until_stored(partial(self._quota.invalidate_counters, tenant_id))


async def _retry_until_stored(tell: Callable[[], Awaitable[T]]) -> T:
    """Tells Redis of what is recorded as often as it takes: if it lost the event, nobody would think of it again."""
    while True:
        try:
            return await tell()
        except StoreUnavailable as error:
            log.warning("drain_waits", reason=str(error))
            await asyncio.sleep(RETRY_S)
