"""This process's view of the queue: one read of its state serves all requests of a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gateway.errors import StoreUnavailable
from gateway.queue.port import QueueStatus

# A read fetches every ticket, and no limit applies to the requests for it, so they must not reach Redis more often.
AGE_MAX_S = 1.0
# Shorter than the deadline of the pages, so that a slow read is reported as such.
READ_TIMEOUT_S = 2.0


class QueueView:
    """`read` fetches the state of the queue, and raises StoreUnavailable. `monotonic` is in seconds."""

    def __init__(
        self,
        read: Callable[[], Awaitable[QueueStatus]],
        monotonic: Callable[[], float] = time.monotonic,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._read = read
        self._monotonic = monotonic
        self._read_timeout_s = read_timeout_s
        self._reading: asyncio.Task[QueueStatus] | None = None
        self._began_s = float("-inf")

    async def current(self) -> QueueStatus:
        """The state, from a read that began less than AGE_MAX_S ago or that still runs.

        A read that failed is shared as well. Raises StoreUnavailable.
        """
        now_s = self._monotonic()
        if self._reading is None or (self._reading.done() and now_s - self._began_s >= AGE_MAX_S):
            self._began_s = now_s
            self._reading = asyncio.create_task(self._run(), name="queue_view")
            self._reading.add_done_callback(_retrieve)
        # A caller that is cancelled leaves the read to the others.
        return await asyncio.shield(self._reading)

    async def aclose(self) -> None:
        """Cancels a read that runs."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _run(self) -> QueueStatus:
        try:
            async with asyncio.timeout(self._read_timeout_s):
                return await self._read()
        except TimeoutError as error:
            raise StoreUnavailable("the state of the queue could not be read in time") from error


def _retrieve(reading: asyncio.Task[QueueStatus]) -> None:
    """Retrieves a failure in case every caller that waited for it was cancelled, so that asyncio does not log it."""
    if not reading.cancelled():
        reading.exception()
