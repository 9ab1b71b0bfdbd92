"""The outbox: carries entries from the process that made them to the ledger, whatever fails meanwhile.

The end of a request must not wait for a store. Its entry goes into a bounded buffer, and a few workers submit it to the
quota until the quota has accepted it. The outbox then retains the entry until PostgreSQL has it, and resubmits it when
the quota's store may have lost it. Resubmission is idempotent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from typing import Protocol

import structlog

from gateway.errors import Denied, StoreUnavailable
from gateway.loops import forever, retry
from gateway.quota.port import Quota
from gateway.record.entry import Entry
from gateway.values import Outcome

log = structlog.get_logger()

WORKERS = 8
CONFIRM_EVERY_S = 2.0
CONFIRM_BATCH_MAX = 500
# Oldest entries are dropped beyond this; they are still in Redis, so both copies would have to be lost.
UNCONFIRMED_MAX = 10_000


class LedgerReader(Protocol):
    """Reads from the ledger which of these entries it has. Raises StoreUnavailable."""

    async def recorded(self, entries: Sequence[Entry]) -> frozenset[str]: ...


class Outbox:
    """`submit` never waits and never fails. Callers check `full` before a request begins."""

    def __init__(
        self, quota: Quota, ledger: LedgerReader, size_max: int, confirm_every_s: float = CONFIRM_EVERY_S
    ) -> None:
        self._quota = quota
        self._ledger = ledger
        self._size_max = size_max
        self._confirm_every_s = confirm_every_s
        self._waiting: deque[Entry] = deque()
        self._submitted = asyncio.Semaphore(0)
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._unconfirmed: dict[str, Entry] = {}

    @property
    def full(self) -> bool:
        """Whether `size_max` entries wait, so that no new request may begin."""
        return self._pending >= self._size_max

    @property
    def unconfirmed(self) -> Collection[str]:
        """The request ids of the entries that are retained until the ledger has them."""
        return self._unconfirmed.keys()

    def submit(self, entry: Entry) -> None:
        """Accepts the entry of a finished request. Bounded by the requests that began before the outbox was full."""
        self._waiting.append(entry)
        self._pending += 1
        self._idle.clear()
        self._submitted.release()

    def retain(self, entry: Entry) -> None:
        """Retains an entry that the quota has accepted until it is in the ledger."""
        self._unconfirmed[entry.request_id] = entry
        if len(self._unconfirmed) > UNCONFIRMED_MAX:
            del self._unconfirmed[next(iter(self._unconfirmed))]

    def resubmit_unconfirmed(self) -> None:
        """Submits every unconfirmed entry again, because the quota's store may have lost it."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for entry in unconfirmed.values():
            self.submit(entry)

    async def run(self) -> None:
        """Submits entries to the quota and confirms them against the ledger, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(self._confirm, self._confirm_every_s, on_error="entries_unconfirmed"))
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    async def wait_idle(self, timeout_s: float) -> int:
        """Waits until the quota has accepted everything, at most `timeout_s`; returns how many entries are left."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.error("entries_unsettled", count=self._pending)
        return self._pending

    async def _work(self) -> None:
        while True:
            await self._submitted.acquire()
            entry = self._waiting.popleft()
            await retry(
                partial(self._store, entry),
                on_error="entry_postponed",
                errors=(StoreUnavailable, Denied),
                request_id=entry.request_id,
            )
            self.retain(entry)
            self._pending -= 1
            if not self._pending:
                self._idle.set()

    async def _store(self, entry: Entry) -> None:
        if entry.outcome is Outcome.DENIED:
            await self._quota.record(entry)
        elif not await self._quota.settle(entry):
            log.info("settled_before", request_id=entry.request_id)

    async def _confirm(self) -> None:
        oldest = list(self._unconfirmed.values())
        for start in range(0, len(oldest), CONFIRM_BATCH_MAX):
            for request_id in await self._ledger.recorded(oldest[start : start + CONFIRM_BATCH_MAX]):
                self._unconfirmed.pop(request_id, None)
