"""A request's way through the queue: it takes a free slot at once, or waits for its turn.

A caller that leaves while it waits frees its place at once, and its request has one row in the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from authz.metrics import QUEUE_WAIT_SECONDS
from authz.waiting import WaitingRequests
from gateway.errors import Denied
from gateway.queue.port import Candidate, Ticket
from gateway.quota.port import Admission, Parked, ReservationDenied, Reserved, Turnstile
from gateway.record import grant
from gateway.record.entry import Ending, Entry, settled_entry
from gateway.values import Outcome, Principal
from gateway.wire.timeouts import BUSY_BACK_OFF_MAX_S


@dataclass(frozen=True, slots=True)
class Passed:
    """The quota's answer, and the time in the queue, None for a request that did not wait."""

    answer: Reserved | ReservationDenied
    queued_ms: int | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The wait ended without an answer, because this process stops."""

    denied: Denied
    queued_ms: int


class Line:
    """`submit` accepts the entry of a request whose caller left while it waited."""

    def __init__(self, turnstile: Turnstile, waiting: WaitingRequests, submit: Callable[[Entry], None]) -> None:
        self._turnstile = turnstile
        self._waiting = waiting
        self._submit = submit

    def ticket(
        self, admission: Admission, principal: Principal, candidates: tuple[Candidate, ...], body_bytes: int
    ) -> Ticket:
        """The ticket of a request. The quota fills in the corrected estimate of its input."""
        return Ticket(
            admission.request_id,
            principal.tenant_id,
            principal.key_id,
            principal.weight,
            principal.priority,
            admission.input_tokens,
            body_bytes,
            candidates,
            self._waiting.owner,
            model=admission.model,
        )

    def busy_retries(self, queued_ms: int) -> int:
        """How often a request that waited for `queued_ms` may try a busy server again within QUEUE_MAX_WAIT_S."""
        left_s = self._waiting.wait_max_s - queued_ms / 1000
        return max(0, int(left_s / BUSY_BACK_OFF_MAX_S))

    async def pass_through(self, admission: Admission, ticket: Ticket, deadline: asyncio.Timeout) -> Passed | Stopped:
        """Admits a request, at once or when it is its turn. A wait extends the `deadline` of the check.

        Raises StoreUnavailable. A cancelled call gets a row here, unless the deadline is the reason and the check is
        denied.
        """
        self._waiting.add(admission.request_id)
        try:
            answer = await self._turnstile.enter(admission, ticket)
            if not isinstance(answer, Parked):
                return Passed(answer, None)
            if (when := deadline.when()) is not None:
                deadline.reschedule(when + self._waiting.wait_max_s)
            return await self._wait(admission, ticket, answer, deadline)
        except asyncio.CancelledError:
            self._waiting.leave(admission.request_id)
            raise
        finally:
            self._waiting.remove(admission.request_id)

    async def _wait(
        self, admission: Admission, ticket: Ticket, parked: Parked, deadline: asyncio.Timeout
    ) -> Passed | Stopped:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer: Reserved | Parked | ReservationDenied = parked
        try:
            while isinstance(answer, Parked):
                await self._waiting.wait(admission.request_id, began + self._waiting.wait_max_s)
                answer = await self._turnstile.enter(admission, ticket, parked)
        except Denied as denied:
            return Stopped(denied, _ms(loop.time() - began))
        except asyncio.CancelledError:
            if not deadline.expired():
                self._submit(_abandoned(admission, parked, _ms(loop.time() - began)))
            raise
        QUEUE_WAIT_SECONDS.observe(loop.time() - began)
        return Passed(answer, _ms(loop.time() - began))


def _abandoned(admission: Admission, parked: Parked, queued_ms: int) -> Entry:
    """The entry of a request whose caller left before its turn."""
    sealed = grant.Grant.from_json(grant.seal(admission.grant_draft, parked.admitted_at_ms, 0, 0))
    return settled_entry(sealed, Ending(Outcome.CLIENT_GONE, status=499, duration_ms=queued_ms, queued_ms=queued_ms))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
