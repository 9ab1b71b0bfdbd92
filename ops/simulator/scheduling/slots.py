"""The slots of one loaded model, and the line in front of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Slots:
    """A semaphore that admits in order of arrival, whose limit may change while it is in use.

    Ollama has one per loaded model (`sem` in `llm/llama_server.go`): OLLAMA_NUM_PARALLEL requests run, and the others
    wait without a bound. `limit` returns the current number of slots; 0 means no limit.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._line: deque[asyncio.Future[None]] = deque()
        self.taken = 0

    @property
    def waiting(self) -> int:
        """The number of requests in the line."""
        return len(self._line)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Waits for a slot and holds it. A waiting request that is cancelled leaves the line."""
        await self._acquire()
        try:
            yield
        finally:
            self.taken -= 1
            self.admit()

    def admit(self) -> None:
        """Admits requests from the head of the line while slots are free."""
        while self._line and self._is_free():
            admitted = self._line.popleft()
            if not admitted.done():
                self.taken += 1
                admitted.set_result(None)

    async def _acquire(self) -> None:
        if not self._line and self._is_free():
            self.taken += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self.taken -= 1
                self.admit()
            elif place in self._line:
                self._line.remove(place)
            raise

    def _is_free(self) -> bool:
        limit = self._limit()
        return limit == 0 or self.taken < limit
