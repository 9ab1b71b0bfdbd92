"""Entries on their way from the process that made them into the ledger, whatever fails meanwhile.

A request's last act must not wait for a store: its entry goes into a bounded buffer, from where a few workers hand it
to the quota and try again until it is taken. It is then kept until PostgreSQL has it, and handed over again when the
quota's store may have lost it: what is told twice is recorded once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from gateway.errors import Denied, StoreUnavailable
from gateway.quota.port import Quota
from gateway.record.entry import Entry
from gateway.values import Outcome

log = structlog.get_logger()

WORKERS = 8
RETRY_S = 0.25
CONFIRM_EVERY_S = 2.0
CONFIRM_BATCH_MAX = 500
# Beyond this the oldest is kept no longer: it lies in the quota's store, which would have to be lost as well.
UNCONFIRMED_MAX = 10_000


class LedgerReader(Protocol):
    """The ledger's side: which of these are in it. Raises StoreUnavailable."""

    async def recorded(self, entries: Sequence[Entry]) -> frozenset[str]: ...


class Outbox:
    """`submit` never waits and never refuses; `full` is looked at before a request begins."""

    def __init__(self, quota: Quota, ledger: LedgerReader, size_max: int) -> None:
        self._quota = quota
        self._ledger = ledger
        self._size_max = size_max
        self._waiting: deque[Entry] = deque()
        self._submitted = asyncio.Semaphore(0)
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._unconfirmed: dict[str, Entry] = {}

    @property
    def full(self) -> bool:
        """Whether so many entries wait that no new request may begin."""
        return self._pending >= self._size_max

    def submit(self, entry: Entry) -> None:
        """Takes over the entry of a finished request. Bounded by the requests that began before it was full."""
        self._waiting.append(entry)
        self._pending += 1
        self._idle.clear()
        self._submitted.release()

    def retain(self, entry: Entry) -> None:
        """Keeps an entry that the quota has taken until it is in the ledger."""
        self._unconfirmed[entry.request_id] = entry
        if len(self._unconfirmed) > UNCONFIRMED_MAX:
            del self._unconfirmed[next(iter(self._unconfirmed))]

    def resubmit_unconfirmed(self) -> None:
        """The quota's store may have lost what it was told."""
        kept, self._unconfirmed = self._unconfirmed, {}
        for entry in kept.values():
            self.submit(entry)

    async def run(self) -> None:
        """Hands over and confirms, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._confirm())
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    async def wait_idle(self, timeout_s: float) -> int:
        """Waits until everything is handed over, at most `timeout_s`; returns how many entries still are not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.error("entries_unsettled", count=self._pending)
        return self._pending

    async def _work(self) -> None:
        while True:
            await self._submitted.acquire()
            await self._hand_over(self._waiting.popleft())
            self._pending -= 1
            if not self._pending:
                self._idle.set()

    async def _hand_over(self, entry: Entry) -> None:
        while True:
            try:
                if entry.outcome is Outcome.DENIED:
                    await self._quota.record(entry)
                elif not await self._quota.settle(entry):
                    log.info("settled_before", request_id=entry.request_id)
            except (StoreUnavailable, Denied) as error:
                log.warning("entry_waits", request_id=entry.request_id, reason=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self.retain(entry)
                return

    async def _confirm(self) -> None:
        while True:
            await asyncio.sleep(CONFIRM_EVERY_S)
            oldest = list(self._unconfirmed.values())
            try:
                for start in range(0, len(oldest), CONFIRM_BATCH_MAX):
                    for request_id in await self._ledger.recorded(oldest[start : start + CONFIRM_BATCH_MAX]):
                        self._unconfirmed.pop(request_id, None)
            except StoreUnavailable as error:
                log.warning("entries_unconfirmed", count=len(self._unconfirmed), reason=str(error))
