"""Rebuilding a tenant's counters from the ledger, after the store lost or may have lost them.

What is used is what PostgreSQL has plus what still waits in the event stream and is not in PostgreSQL yet; what is held
is what live holds say. The three are read one after the other, so a settlement in between would be counted twice or not
at all: it voids the rebuild (its token no longer matches at `install`), which then starts again. Nothing is admitted
meanwhile, so only requests that run already can do that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from gateway.errors import StoreUnavailable
from gateway.quota import periods
from gateway.quota.port import TenantUsage, UsageLoader
from gateway.record.entry import Entry
from gateway.values import Period

# How long one admission waits for a rebuild, and how long the rebuild itself may take in the background.
WAIT_S = 0.8
REBUILD_S = 5.0
REBUILDS_MAX = 8
POLL_S = 0.02

Used = Mapping[tuple[int | None, Period, date], int]
"""Tokens of a key (None: the tenant) in the period that began on that day."""


@dataclass(frozen=True, slots=True)
class RebuildSnapshot:
    """The beginning of a rebuild: its token, the store's clock, and the tenant's events that wait, raw."""

    token: str
    now_ms: int
    events: Sequence[str]


class Rebuildable(Protocol):
    """What a store offers for a rebuild."""

    async def begin_rebuild(self, tenant_id: int) -> RebuildSnapshot | bool:
        """Begins a rebuild. True: the counters are there already. False: someone else is rebuilding them."""
        ...

    async def commit_rebuild(self, tenant_id: int, snapshot: RebuildSnapshot, used: Used) -> bool:
        """Puts the counters in place with what live holds hold. False: the rebuild was voided meanwhile."""
        ...

    async def abort_rebuild(self, tenant_id: int) -> None:
        """Ends a rebuild that failed, so that another may begin."""
        ...


class Rebuilder:
    """One rebuild per tenant at a time, however many requests wait for it."""

    def __init__(self, store: Rebuildable, load: UsageLoader, wait_s: float = WAIT_S) -> None:
        self._store = store
        self._load = load
        self._wait_s = wait_s
        self._running: dict[int, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(REBUILDS_MAX)

    async def rebuild(self, tenant_id: int) -> None:
        """Returns when the tenant's counters are there.

        Raises StoreUnavailable when that takes longer than `wait_s`.
        """
        task = self._running.get(tenant_id)
        if task is None:
            task = self._running[tenant_id] = asyncio.create_task(self._run(tenant_id))
            task.add_done_callback(lambda done: self._ended(tenant_id, done))
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise StoreUnavailable("the counters are being rebuilt") from error

    async def aclose(self) -> None:
        """Ends the rebuilds that run."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, tenant_id: int, task: asyncio.Task[None]) -> None:
        del self._running[tenant_id]
        if not task.cancelled():
            # Whoever waited has been told; with nobody waiting the next admission finds out by itself.
            task.exception()

    async def _run(self, tenant_id: int) -> None:
        try:
            async with asyncio.timeout(REBUILD_S), self._slots:
                while True:
                    if await self._attempt(tenant_id):
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise StoreUnavailable("the counters could not be rebuilt in time") from error

    async def _attempt(self, tenant_id: int) -> bool:
        snapshot = await self._store.begin_rebuild(tenant_id)
        if isinstance(snapshot, bool):
            return snapshot
        committed = False
        try:
            waiting = _entries(snapshot.events)
            now = periods.at(snapshot.now_ms)
            usage = await self._load(tenant_id, now, [entry.request_id for entry in waiting])
            committed = await self._store.commit_rebuild(tenant_id, snapshot, total(usage, waiting, snapshot.now_ms))
        finally:
            if not committed:
                await self._store.abort_rebuild(tenant_id)
        return committed


def _entries(texts: Sequence[str]) -> list[Entry]:
    """The events that are entries. One that is not has no tokens that could be counted; the drain deals with it."""
    entries = []
    for text in texts:
        try:
            entries.append(Entry.from_json(text))
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def total(usage: TenantUsage, waiting: Sequence[Entry], now_ms: int) -> Used:
    """The tokens used in the periods in force at `now_ms` and later: what is recorded, and what waits to be.

    A request may wait twice, when it was settled again after its id was forgotten; the first of its entries counts.
    """
    in_force = periods.starts(periods.at(now_ms))
    used: Counter[tuple[int | None, Period, date]] = Counter()
    for row in usage.used:
        used[row.subject_id if row.subject == "key" else None, row.period, row.period_start] += row.tokens
    for entry in {entry.request_id: entry for entry in reversed(waiting)}.values():
        if entry.request_id not in usage.recorded:
            for period, start in periods.starts(periods.at(entry.ts_ms)).items():
                used[None, period, start] += entry.input_tokens + entry.output_tokens
                used[entry.key_id, period, start] += entry.input_tokens + entry.output_tokens
    return {key: tokens for key, tokens in used.items() if tokens and key[2] >= in_force[key[1]]}
