"""Finds out which peer ended a broken-off answer, before its entry is final.

Envoy closes the meter's stream in the same way in both cases, and only its access log records the cause. That record
goes to one meter, which need not be the one of the request; `meter.access_log.shared_causes` carries it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from gateway.errors import Code
from gateway.record.entry import Entry
from gateway.values import Outcome

log = structlog.get_logger()

# The record arrives immediately, or never if Envoy crashed. Only an outage of Redis or the load of a meter delays it,
# and most outages are shorter than this.
WAIT_S = 5.0
# While other causes arrive, this one may still be in the backlog of a meter, so the wait is extended up to this.
WAIT_MAX_S = 30.0
# The wait is counted in turns of equal length, and in each of them the event loop receives what has arrived. A process
# therefore does not count the time in which it had no CPU.
TURNS_PER_WAIT = 10


@dataclass(frozen=True, slots=True)
class _Waiting:
    entry: Entry
    on_final: Callable[[], None]
    since_turn: int


class DisconnectCauses:
    """The requests of this process whose answers may break off, and those that wait for their cause.

    `submit` accepts the final entries, `publish` the causes of other meters' requests. A request waits until no cause
    of any request has arrived for `wait_s`, and at most `wait_max_s`. A cause that arrives before its request ends is
    remembered, so the memory is bounded by the number of running requests. `unknown` counts the entries that became
    final without a cause.
    """

    def __init__(
        self,
        submit: Callable[[Entry], None],
        publish: Callable[[str, bool], None],
        *,
        wait_s: float = WAIT_S,
        wait_max_s: float = WAIT_MAX_S,
    ) -> None:
        self._submit = submit
        self._publish = publish
        self._turn_s = wait_s / TURNS_PER_WAIT
        self._turns_max = round(wait_max_s / self._turn_s)
        self._turn = 0
        self._arrived_turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[str, bool | None] = {}
        self._waiting: dict[str, _Waiting] = {}
        self.unknown = 0

    def register(self, request_id: str) -> None:
        """From now on this process accepts the cause of this request."""
        self._running[request_id] = None

    def discard(self, request_id: str) -> None:
        """The request has ended. If it waits for its cause, it still receives it."""
        self._running.pop(request_id, None)

    def note(self, request_id: str, by_upstream: bool) -> bool:
        """Accepts the cause that Envoy reported to this process, and publishes it if the request is not known here.

        Returns whether it is known.
        """
        is_known = self.resolve(request_id, by_upstream)
        if not is_known:
            self._publish(request_id, by_upstream)
        return is_known

    def resolve(self, request_id: str, by_upstream: bool) -> bool:
        """Accepts a cause from Envoy or from another meter. Returns whether the request is known in this process."""
        self._arrived_turn = self._turn
        if request_id in self._waiting:
            self._finish(request_id, by_upstream)
            return True
        if request_id in self._running:
            self._running[request_id] = by_upstream
            return True
        return False

    def settle(self, entry: Entry, on_final: Callable[[], None]) -> None:
        """Accepts the entry of a broken-off answer, which presumes that the caller ended it.

        Calls `on_final` and then submits the entry as soon as the cause is known. After the wait the entry is
        submitted unchanged. Its hold must be renewed until then.
        """
        request_id = entry.request_id
        self._waiting[request_id] = _Waiting(entry, on_final, self._turn)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._turn_s, self._begin_turn)
        by_upstream = self._running.pop(request_id, None)
        if by_upstream is not None:
            self._finish(request_id, by_upstream)

    def close(self) -> None:
        """Stops waiting. Pending entries are submitted unchanged."""
        for request_id in tuple(self._waiting):
            self._finish(request_id, by_upstream=False)

    def _begin_turn(self) -> None:
        self._turn += 1
        is_quiet = self._turn - self._arrived_turn >= TURNS_PER_WAIT
        for request_id, waiting in tuple(self._waiting.items()):
            turns = self._turn - waiting.since_turn
            if turns >= self._turns_max or (is_quiet and turns >= TURNS_PER_WAIT):
                self._expire(request_id)
        self._timer = asyncio.get_running_loop().call_later(self._turn_s, self._begin_turn) if self._waiting else None

    def _expire(self, request_id: str) -> None:
        self.unknown += 1
        log.warning("cause_unknown", request_id=request_id, reason="no record", unknown=self.unknown)
        self._finish(request_id, by_upstream=False)

    def _finish(self, request_id: str, by_upstream: bool) -> None:
        waiting = self._waiting.pop(request_id)
        waiting.on_final()
        entry = waiting.entry
        if by_upstream:
            entry = replace(entry, outcome=Outcome.UPSTREAM_ERROR, code=str(Code.BACKEND_ERROR))
        self._submit(entry)
