"""Carries the causes of broken-off answers from the meter that Envoy reported them to, to the meter of the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice

import structlog

from gateway.loops import forever
from meter.access_log.cause_stream import FIRST, CauseStream

log = structlog.get_logger()

# How long a batch waits for more causes. The streams of a backend that dies break off together.
GATHER_S = 0.05
BATCH_MAX = 1000
# Beyond this the oldest causes are dropped. Redis is unavailable then, and their requests are past their deadline.
OUTGOING_MAX = 10_000


class SharedCauses:
    """Publishes the causes of this process in batches, and follows those of all processes with one blocking read.

    Redis may be unavailable: causes then wait, and the read resumes at its last position. `dropped` counts the causes
    that were never published.
    """

    def __init__(self, stream: CauseStream) -> None:
        self._stream = stream
        self._outgoing: dict[str, bool] = {}
        self._added = asyncio.Event()
        self._position = FIRST
        self._from_start = False
        self.dropped = 0

    def publish(self, request_id: str, by_upstream: bool) -> None:
        """Queues a cause for the other meters."""
        self._outgoing[request_id] = by_upstream
        if len(self._outgoing) > OUTGOING_MAX:
            oldest = next(iter(self._outgoing))
            del self._outgoing[oldest]
            self.dropped += 1
            log.warning("cause_not_shared", request_id=oldest, dropped=self.dropped)
        self._added.set()

    def read_from_start(self) -> None:
        """Reads the whole stream again, because the store may have lost it, and the ids of a new one may be lower."""
        self._from_start = True

    async def run(self, receive: Callable[[str, bool], object]) -> None:
        """Publishes, and calls `receive` with each cause of any process, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(self._publish, 0.0, on_error="causes_not_published"))
            tasks.create_task(forever(partial(self._follow, receive), 0.0, on_error="causes_not_read"))

    async def _publish(self) -> None:
        await self._added.wait()
        if len(self._outgoing) < BATCH_MAX:
            await asyncio.sleep(GATHER_S)
        batch = dict(islice(self._outgoing.items(), BATCH_MAX))
        await self._stream.append(batch)
        for request_id in batch:
            self._outgoing.pop(request_id, None)
        if not self._outgoing:
            self._added.clear()

    async def _follow(self, receive: Callable[[str, bool], object]) -> None:
        if self._from_start:
            self._position, self._from_start = FIRST, False
        causes, self._position = await self._stream.read(self._position)
        for request_id, by_upstream in causes.items():
            receive(request_id, by_upstream)
