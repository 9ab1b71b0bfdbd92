"""Further attempts of requests: each waits for a slot at its replica before Envoy sends the request there.

Envoy calls the meter about an attempt in a separate call (`ops.data_plane.further_attempts`), which may reach another
meter than the one that measures the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gateway.errors import Code, Denied, StoreUnavailable
from gateway.queue.port import Ended, Queue, QueueTimeout, Turn, Waiting
from gateway.record.grant import ATTEMPT_HEADER
from gateway.rpc.methods import Message, Metadata
from meter import envoy_api
from meter.metrics import QUEUE_MOVES

log = structlog.get_logger()

# How often a waiting attempt reads its place. Its turn is not notified, because fail-over is rare.
POLL_S = 0.25
# How long an attempt that waits outlasts a store that does not answer. A restart of Redis takes less.
OUTAGE_MAX_S = 5.0
_RETRY_AFTER_S = 1


class Attempts:
    """`wait_max_s` is the longest wait of an attempt for a slot, in seconds; the queue bounds those of a request."""

    def __init__(
        self, queue: Queue, wait_max_s: float, *, poll_s: float = POLL_S, outage_max_s: float = OUTAGE_MAX_S
    ) -> None:
        self._queue = queue
        self._wait_max_s = wait_max_s
        self._poll_s = poll_s
        self._outage_max_s = outage_max_s

    async def admit(self, request_id: str, replica: str, attempt: int) -> None:
        """Returns when the request may run at `replica`, with a slot there if the store answers and knows its slots.

        `attempt` is the number of the attempt. Raises Denied(queue_timeout). A cancelled call leaves the request where
        it waits: its next attempt moves it again, and its end frees it.
        """
        try:
            place, has_waited = await self._place(request_id, replica, attempt)
        except StoreUnavailable as error:
            log.warning("attempt_without_slot", request_id=request_id, reason=str(error))
            place, has_waited = Ended(), False
        if isinstance(place, QueueTimeout):
            QUEUE_MOVES.labels("timed_out").inc()
            raise Denied(Code.QUEUE_TIMEOUT, retry_after_s=place.retry_after_s)
        has_slot = isinstance(place, Turn) and place.replica == replica
        QUEUE_MOVES.labels("without_slot" if not has_slot else "waited" if has_waited else "at_once").inc()

    async def _place(self, request_id: str, replica: str, attempt: int) -> tuple[Turn | QueueTimeout | Ended, bool]:
        """The place of a request that no longer waits, and whether it waited. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        answered_s = loop.time()
        until_s = answered_s + self._wait_max_s
        has_waited = False
        while True:
            try:
                place = await self._queue.move(request_id, replica, attempt)
            except StoreUnavailable:
                if not has_waited or loop.time() >= answered_s + self._outage_max_s:
                    raise
            else:
                answered_s = loop.time()
                if not isinstance(place, Waiting):
                    return place, has_waited
            if loop.time() >= until_s:
                return QueueTimeout(_RETRY_AFTER_S), True
            has_waited = True
            await asyncio.sleep(self._poll_s)


class AttemptCall:
    """One call of Envoy about a further attempt."""

    def __init__(self, attempts: Attempts, metadata: Metadata) -> None:
        self._attempts = attempts
        self._path = metadata[ATTEMPT_HEADER].decode("ascii", "replace")

    def receive(self, message: ext_proc.ProcessingRequest) -> Message | Awaitable[Message]:
        """Replies to the head of the request, the only message."""
        return self._reply(*envoy_api.attempt_of(message))

    async def _reply(self, request_id: str, replica: str, attempt: int) -> Message:
        try:
            await self._attempts.admit(request_id, replica, attempt)
        except Denied as denied:
            return envoy_api.deny_attempt(denied, self._path, request_id)
        return envoy_api.untouched("request_headers")

    def finish(self) -> None:
        """The last message of Envoy needs no reply."""

    def close(self, cause: Exception | None) -> None:
        """Nothing is left to do, whichever side ended the call."""
