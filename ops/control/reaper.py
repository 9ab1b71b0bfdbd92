"""Settles the requests whose meter died, when their holds have expired."""

from __future__ import annotations

import asyncio

import structlog

from gateway.errors import StoreUnavailable
from gateway.loops import forever
from gateway.quota.port import ExpiredHold, Quota
from gateway.record.entry import Ending, Entry, settled_entry
from gateway.values import Outcome, Usage, UsageSource

log = structlog.get_logger()

INTERVAL_S = 2.0
BATCH_MAX = 200


class Reaper:
    """Several reapers may run at once: settling is idempotent and takes only holds that are still expired.

    During an outage of the store no meter can renew its holds, so after it every hold seems expired. The reaper then
    gives the meters a whole lease, `lease_s`, to renew before it settles anything.
    """

    def __init__(self, quota: Quota, lease_s: float, interval_s: float = INTERVAL_S) -> None:
        self._quota = quota
        self._lease_s = lease_s
        self._interval_s = interval_s
        self._after_outage = False

    async def reap(self) -> int:
        """Settles the holds that have expired by now; returns how many. Raises StoreUnavailable."""
        settled = 0
        for expired in await self._quota.expired(BATCH_MAX):
            request_id = expired.hold.request_id
            try:
                entry = lost_entry(expired)
            except ValueError as error:
                # It remains, and must not end the reaper of the other holds.
                log.error("hold_unreadable", request_id=request_id, reason=str(error))
                continue
            if await self._quota.settle(entry, only_if_expired=True):
                settled += 1
                log.warning("request_lost", request_id=request_id)
        return settled

    async def run(self) -> None:
        """Reaps until cancelled."""
        await forever(self._step, self._interval_s, on_error="reaper_postponed", jitter=0.25)

    async def _step(self) -> float | None:
        try:
            if self._after_outage:
                await self._quota.expired(1)
                await asyncio.sleep(self._lease_s)
                self._after_outage = False
            return 0.0 if await self.reap() == BATCH_MAX else None
        except StoreUnavailable:
            self._after_outage = True
            raise


def lost_entry(expired: ExpiredHold) -> Entry:
    """The entry of a request whose meter did not settle it, at the progress that the meter reported last."""
    hold, progress = expired.hold, expired.progress
    known = progress.input_tokens or progress.output_tokens
    # A hold does not store whether its tokens were counted.
    source = UsageSource.ESTIMATED if known else UsageSource.NONE
    usage = Usage(progress.input_tokens, progress.output_tokens, source)
    ending = Ending(Outcome.LOST, status=503, usage=usage, response_bytes=progress.response_bytes)
    return settled_entry(hold.grant(), ending)
