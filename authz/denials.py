"""The audit row of a denied request."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from gateway.errors import Code, Denied, StoreUnavailable
from gateway.ledger.outbox import Outbox
from gateway.record.entry import Ending, denied_entry
from gateway.record.request import RequestRecord
from gateway.values import Outcome

log = structlog.get_logger()

# A process that is killed after the answer, and before the quota has the entry, loses the row.
UNAVAILABLE_WAIT_S = 0.1


class DenialLog:
    """Records one entry per denial. `now` gives seconds since the epoch."""

    def __init__(self, outbox: Outbox, now: Callable[[], float] = time.time) -> None:
        self._outbox = outbox
        self._now = now

    async def record(self, request: RequestRecord, denied: Denied, queued_ms: int | None = None) -> bool:
        """Records that `request` was denied, after it waited for `queued_ms` in the queue.

        False: the backlog is full, so there will be no row.

        The entry is in the quota's store before this returns. When a dependency is unavailable, which may be that very
        store, the entry goes to the outbox instead and the answer waits for at most UNAVAILABLE_WAIT_S.
        """
        ending = Ending(Outcome.DENIED, denied.status, denied.code, reason=denied.reason, queued_ms=queued_ms)
        entry = denied_entry(request, int(self._now() * 1000), ending)
        if denied.code is Code.UNAVAILABLE:
            await self._outbox.submit_denial(entry, UNAVAILABLE_WAIT_S)
            return True
        try:
            await self._outbox.record(entry)
        except Denied:
            return False
        except StoreUnavailable as error:
            log.info("denial_postponed", request_id=entry.request_id, reason=str(error))
            self._outbox.submit(entry)
        return True
