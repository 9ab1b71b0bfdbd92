"""Settles the holds of requests that were admitted and never reached a meter, because the caller left before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.errors import StoreUnavailable
from gateway.quota.port import Quota
from gateway.record.entry import CLIENT_GONE, Entry, settled_entry

log = structlog.get_logger()

# A meter that received the request has settled it by then, unless Redis is unavailable.
ORPHAN_AFTER_S = 2.0
CANDIDATES_MAX = 10_000
WORKERS = 16


class Orphans:
    """`submit` accepts the entries. `after_s` is how long the hold of a request is left to its meter.

    `dropped` counts the candidates beyond CANDIDATES_MAX. If they are orphans, the reaper settles their holds.
    """

    def __init__(self, quota: Quota, submit: Callable[[Entry], None], *, after_s: float = ORPHAN_AFTER_S) -> None:
        self._quota = quota
        self._submit = submit
        self._after_s = after_s
        self._candidates: asyncio.Queue[tuple[float, str]] = asyncio.Queue(CANDIDATES_MAX)
        self.dropped = 0

    def add(self, request_id: str) -> None:
        """Accepts a request whose caller left before any answer, and which is not one of this process.

        A meter that has received the request settles it at once. A hold that is still there afterwards is an orphan:
        the caller left before Envoy or a meter learned that it was admitted.
        """
        try:
            self._candidates.put_nowait((asyncio.get_running_loop().time() + self._after_s, request_id))
        except asyncio.QueueFull:
            self.dropped += 1
            log.warning("orphan_not_checked", request_id=request_id, dropped=self.dropped)

    async def run(self) -> None:
        """Settles orphans until cancelled, at most WORKERS at a time."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        # Not `forever`: a worker waits for a candidate, and an outage ends only that candidate.
        loop = asyncio.get_running_loop()
        while True:
            # All candidates wait equally long, so the first of the queue is the first that is due.
            due_s, request_id = await self._candidates.get()
            await asyncio.sleep(due_s - loop.time())
            await self._settle(request_id)

    async def _settle(self, request_id: str) -> None:
        try:
            hold = await self._quota.held(request_id)
            if hold is not None:
                self._submit(settled_entry(hold.grant(), CLIENT_GONE))
        except StoreUnavailable as error:
            log.warning("orphan_not_checked", request_id=request_id, reason=str(error))
        except (ValueError, KeyError, TypeError) as error:
            # The text of the hold is malformed. The reaper skips it too.
            log.error("hold_unreadable", request_id=request_id, reason=f"{type(error).__name__}: {error}")
