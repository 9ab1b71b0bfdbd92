"""The requests of this process that wait in the queue for their turn."""

from __future__ import annotations

import asyncio

from gateway.errors import Code, Denied
from gateway.loops import forever
from gateway.queue.port import Turns
from gateway.quota.port import Turnstile

# A notification may be lost, and the lease of a ticket is 5 s.
POLL_S = 1.5
# After the maximum wait the request is admitted again, which reports that its time is over.
MARGIN_S = 0.05
_STOPPING = "the gateway is restarting; try again"


class WaitingRequests:
    """`owner` names this process in the queue; `wait_max_s` is QUEUE_MAX_WAIT_S."""

    def __init__(self, turnstile: Turnstile, turns: Turns, owner: str, wait_max_s: float) -> None:
        self._turnstile = turnstile
        self._turns = turns
        self.owner = owner
        self.wait_max_s = wait_max_s
        # The event is made when it is needed, because most requests find a free slot.
        self._turn_of: dict[str, asyncio.Event | None] = {}
        self._left: list[str] = []
        self._has_left = asyncio.Event()
        self._is_stopping = False

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._turn_of)

    def add(self, request_id: str) -> None:
        """Notes the notifications for a request from now on. Add it before it enters the queue."""
        self._turn_of[request_id] = None

    def remove(self, request_id: str) -> None:
        """Forgets a request that has passed or that was denied."""
        del self._turn_of[request_id]

    async def wait(self, request_id: str, until: float) -> None:
        """Waits until it may be the turn of a request, at most until the time `until` of the loop.

        Raises Denied(unavailable) when this process stops.
        """
        event = self._event_of(request_id)
        if not self._is_stopping:
            try:
                async with asyncio.timeout_at(until + MARGIN_S):
                    await event.wait()
            except TimeoutError:
                return
        if self._is_stopping:
            raise Denied(Code.UNAVAILABLE, _STOPPING, retry_after_s=1)
        event.clear()

    def leave(self, request_id: str) -> None:
        """Frees the place of a request whose caller has left, together with those that left at the same time."""
        self._left.append(request_id)
        self._has_left.set()

    def stop(self) -> None:
        """Ends every wait, and every later one at once."""
        self._is_stopping = True
        for event in filter(None, self._turn_of.values()):
            event.set()

    async def run(self) -> None:
        """Follows the notifications, polls, and frees the places of callers that leave, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(self._follow, 0.0, on_error="turns_unavailable"))
            tasks.create_task(forever(self._poll, POLL_S, on_error="queue_unavailable"))
            tasks.create_task(forever(self._free, 0.0, on_error="places_not_freed"))

    async def _follow(self) -> None:
        async with self._turns.of(self.owner) as next_turn:
            while True:
                request_id = await next_turn(POLL_S)
                if request_id is not None:
                    self._notify(request_id)

    async def _poll(self) -> None:
        request_ids = list(self._turn_of)
        ready = await self._turnstile.poll(request_ids)
        for request_id, is_ready in zip(request_ids, ready, strict=True):
            if is_ready:
                self._notify(request_id)

    async def _free(self) -> None:
        """Frees the places of all requests that have left. After a failure their settlements free them."""
        await self._has_left.wait()
        self._has_left.clear()
        left, self._left = self._left, []
        await self._turnstile.leave(left)

    def _notify(self, request_id: str) -> None:
        if request_id in self._turn_of:
            self._event_of(request_id).set()

    def _event_of(self, request_id: str) -> asyncio.Event:
        """The event that is set when it may be the turn of a request."""
        event = self._turn_of[request_id]
        if event is None:
            event = self._turn_of[request_id] = asyncio.Event()
        return event
