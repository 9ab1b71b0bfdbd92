"""Rebuilds a tenant's counters from the ledger when the store may have lost them.

The used tokens are those in PostgreSQL plus those of events in the stream that PostgreSQL does not have yet. The two
are read one after the other, so a settlement in between would be counted twice or not at all. It therefore voids the
rebuild (the token no longer matches in `commit_rebuild`), which then starts again. Nothing is admitted in the meantime,
so only requests that are already running can settle. The held tokens need no rebuild: the store changes them together
with the holds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Protocol

from gateway.errors import StoreUnavailable
from gateway.quota import periods
from gateway.quota.port import TenantUsage, UsageLoader
from gateway.record.entry import Entry
from gateway.values import Period

# How long an admission waits for a rebuild, and how long the rebuild may take in the background.
WAIT_S = 0.8
REBUILD_S = 5.0
REBUILDS_MAX = 8
POLL_S = 0.02

Used = Mapping[tuple[int | None, Period, date], int]
"""Tokens of a key (None: the tenant) in the period that began on that day."""


class NotBegun(Enum):
    """Why a rebuild did not begin."""

    READY = "the counters are valid"
    BUSY = "another process rebuilds them, or nothing is admitted yet"


@dataclass(frozen=True, slots=True)
class BegunRebuild:
    """A rebuild that has begun: its token, the time of the store's clock, and the name of the epoch."""

    token: str
    now_ms: int
    epoch: str


class Rebuildable(Protocol):
    """The operations of a store that a rebuild needs. All raise StoreUnavailable."""

    async def begin_rebuild(self, tenant_id: int) -> BegunRebuild | NotBegun:
        """Begins a rebuild, unless there is a reason not to."""
        ...

    async def waiting_events(self, tenant_id: int, begun: BegunRebuild) -> Sequence[str]:
        """The tenant's events that wait for the ledger, raw, and possibly some that it has already."""
        ...

    async def commit_rebuild(self, tenant_id: int, begun: BegunRebuild, used: Used) -> bool:
        """Installs the sums that are used. False: the rebuild was voided in the meantime."""
        ...

    async def abort_rebuild(self, tenant_id: int, begun: BegunRebuild) -> None:
        """Ends a rebuild that failed, so that another can begin. Leaves a rebuild that began later alone."""
        ...


class Rebuilder:
    """Runs at most one rebuild per tenant at a time, for all the requests that wait for it."""

    def __init__(self, store: Rebuildable, load: UsageLoader, wait_s: float = WAIT_S) -> None:
        self._store = store
        self._load = load
        self._wait_s = wait_s
        self._running: dict[int, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(REBUILDS_MAX)

    async def rebuild(self, tenant_id: int) -> None:
        """Returns when the tenant's counters are valid.

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
        """Cancels the running rebuilds."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, tenant_id: int, task: asyncio.Task[None]) -> None:
        del self._running[tenant_id]
        if not task.cancelled():
            task.exception()  # Retrieved here too, in case no admission waits any more.

    async def _run(self, tenant_id: int) -> None:
        try:
            async with asyncio.timeout(REBUILD_S), self._slots:
                while True:
                    if await self._try(tenant_id):
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise StoreUnavailable("the counters could not be rebuilt in time") from error

    async def _try(self, tenant_id: int) -> bool:
        begun = await self._store.begin_rebuild(tenant_id)
        if isinstance(begun, NotBegun):
            return begun is NotBegun.READY
        committed = False
        try:
            waiting = _entries(await self._store.waiting_events(tenant_id, begun))
            usage = await self._load(tenant_id, periods.at(begun.now_ms), [entry.request_id for entry in waiting])
            committed = await self._store.commit_rebuild(tenant_id, begun, total(usage, waiting, begun.now_ms))
        finally:
            if not committed:
                await self._store.abort_rebuild(tenant_id, begun)
        return committed


def _entries(texts: Sequence[str]) -> list[Entry]:
    """The events that are entries. Any other event has no tokens to count; the drain handles it."""
    entries = []
    for text in texts:
        try:
            entries.append(Entry.from_json(text))
        except ValueError:
            continue
    return entries


def total(usage: TenantUsage, waiting: Sequence[Entry], now_ms: int) -> Used:
    """The tokens used in the current periods at `now_ms` and later: those recorded, and those of `waiting` entries.

    A request that was settled again after its id had expired waits twice. The first of its entries counts.
    """
    current = periods.starts(periods.at(now_ms))
    used: Counter[tuple[int | None, Period, date]] = Counter()
    for row in usage.used:
        used[row.subject_id if row.subject == "key" else None, row.period, row.period_start] += row.tokens
    for entry in {entry.request_id: entry for entry in reversed(waiting)}.values():
        if entry.request_id not in usage.recorded:
            for period, start in periods.starts(periods.at(entry.ts_ms)).items():
                used[None, period, start] += entry.input_tokens + entry.output_tokens
                used[entry.key_id, period, start] += entry.input_tokens + entry.output_tokens
    return {key: tokens for key, tokens in used.items() if tokens and key[2] >= current[key[1]]}
