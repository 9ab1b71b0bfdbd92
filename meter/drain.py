"""Moves ledger entries from the event stream into PostgreSQL: read, append in one transaction, acknowledge.

Delivery is at least once and appending is idempotent, so an entry is recorded once whatever fails in between.

Two cases leave the live counters in doubt, and the drain has them rebuilt from the ledger. An entry that is recorded
already may have been counted twice: Redis lost its state of the request and the entry was resubmitted. An entry that
Redis lost before it was acknowledged may not be counted at all: the counters were rebuilt in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

import structlog

from gateway.errors import Conflict, DataRefused
from gateway.ledger.store import Ledger
from gateway.loops import forever, retry
from gateway.quota.port import Event, EventStream, Quota
from gateway.record.entry import Entry
from meter.metrics import LEDGER_REJECTS

log = structlog.get_logger()

BATCH_MAX = 200
BLOCK_MS = 500
# Entries that arrive during this pause share one transaction. Only a full batch is followed at once. The pause is half
# of the half second in which a row must follow its entry.
GATHER_S = 0.25
# An event that another consumer received this long ago and never acknowledged was lost with that consumer.
CLAIM_AFTER_MS = 10_000
CLAIM_EVERY_S = 5.0


class Drain:
    """One consumer, named `consumer` in the group, of every shard's stream."""

    def __init__(self, quota: Quota, ledger: Ledger, consumer: str, claim_after_ms: int = CLAIM_AFTER_MS) -> None:
        self._quota = quota
        self._ledger = ledger
        self._consumer = consumer
        self._claim_after_ms = claim_after_ms
        self.rejected = 0

    async def run(self) -> None:
        """Drains until cancelled. While either store is unavailable the entries wait in the stream."""
        async with asyncio.TaskGroup() as tasks:
            for stream in self._quota.streams:
                tasks.create_task(self._claim_and_follow(stream))

    async def _claim_and_follow(self, stream: EventStream) -> None:
        loop = asyncio.get_running_loop()
        claim_at = loop.time()

        async def step() -> float:
            # An event that was read and not recorded is claimed later, by this consumer or another.
            nonlocal claim_at
            if loop.time() >= claim_at:
                claim_at = loop.time() + CLAIM_EVERY_S
                await self.record(stream, await stream.claim(self._consumer, BATCH_MAX, self._claim_after_ms))
            events = await stream.read(self._consumer, BATCH_MAX, BLOCK_MS)
            await self.record(stream, events)
            return GATHER_S if 0 < len(events) < BATCH_MAX else 0.0

        await forever(step, GATHER_S, on_error="drain_postponed")

    async def record(self, stream: EventStream, events: list[Event]) -> None:
        """Records events that were read or claimed, and acknowledges them.

        Raises StoreUnavailable before the acknowledgement; the events are then delivered again.
        """
        if not events:
            return
        entries = []
        for event in events:
            try:
                entries.append(Entry.from_json(event.text))
            except ValueError as error:
                # It is skipped, or it would be redelivered indefinitely. The log keeps its text.
                log.error("event_unreadable", event_id=event.id, entry=event.text, reason=type(error).__name__)
        # Before the acknowledgement, because an event that is not acknowledged is delivered again.
        await self._invalidate_counters(await self._append(entries), "recorded_before")
        ids = [event.id for event in events]
        if await retry(partial(stream.acknowledge, ids), on_error="acknowledgement_postponed"):
            await self._invalidate_counters({entry.tenant_id for entry in entries}, "lost_before_recorded")

    async def _append(self, entries: Sequence[Entry]) -> frozenset[int]:
        """Like `Ledger.append`.

        An entry that PostgreSQL will never accept is isolated by halving and set aside, so that it holds up no other.
        """
        try:
            return await self._ledger.append(entries)
        except (DataRefused, Conflict) as error:
            if len(entries) == 1:
                return await self._reject(entries[0], str(error))
        middle = len(entries) // 2
        return await self._append(entries[:middle]) | await self._append(entries[middle:])

    async def _reject(self, entry: Entry, reason: str) -> frozenset[int]:
        self.rejected += 1
        LEDGER_REJECTS.inc()
        log.error("entry_rejected", request_id=entry.request_id, reason=reason, rejected=self.rejected)
        try:
            return await self._ledger.reject(entry, reason)
        except (DataRefused, Conflict) as error:
            log.error("reject_not_stored", request_id=entry.request_id, entry=entry.to_json(), reason=str(error))
            return frozenset()

    async def _invalidate_counters(self, tenant_ids: Collection[int | None], reason: str) -> None:
        """Repeats until Redis has accepted it: if Redis lost the event, no other process would notice."""
        for tenant_id in tenant_ids:
            if tenant_id is not None:
                log.info("counters_invalidated", tenant_id=tenant_id, reason=reason)
                await retry(partial(self._quota.invalidate_counters, tenant_id), on_error="invalidation_postponed")
