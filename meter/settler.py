"""Settles finished requests, in the order they end, however long Redis is away.

A request's last act must not wait for a store: its entry goes into a bounded buffer, from where a few workers settle it
and try again until it is settled. While the buffer is full no new request is let through.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from gateway.errors import StoreUnavailable
from gateway.ledger import Entry
from gateway.quota.port import Quota

log = structlog.get_logger()

WORKERS = 8
RETRY_S = 0.25


class Settler:
    """`submit` never waits and never refuses; `full` is looked at before a request begins."""

    def __init__(self, quota: Quota, size_max: int) -> None:
        self._quota = quota
        self._size_max = size_max
        self._waiting: deque[Entry] = deque()
        self._submitted = asyncio.Semaphore(0)
        self._unsettled = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def full(self) -> bool:
        """Whether so many entries wait that no new request may begin."""
        return self._unsettled >= self._size_max

    def submit(self, entry: Entry) -> None:
        """Takes over a finished request. Bounded by the requests that were let through before it was full."""
        self._waiting.append(entry)
        self._unsettled += 1
        self._idle.clear()
        self._submitted.release()

    async def run(self) -> None:
        """Settles for ever."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS):
                workers.create_task(self._work())

    async def drained(self, timeout_s: float) -> int:
        """Waits until nothing is unsettled, at most `timeout_s`; returns how many entries are still unsettled."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.error("entries_unsettled", count=self._unsettled)
        return self._unsettled

    async def _work(self) -> None:
        while True:
            await self._submitted.acquire()
            await self._settle(self._waiting.popleft())
            self._unsettled -= 1
            if not self._unsettled:
                self._idle.set()

    async def _settle(self, entry: Entry) -> None:
        while True:
            try:
                if not await self._quota.settle(entry):
                    log.warning("settled_before", request_id=entry.request_id)
                return
            except StoreUnavailable as error:
                log.warning("settlement_waits", request_id=entry.request_id, reason=str(error))
                await asyncio.sleep(RETRY_S)
