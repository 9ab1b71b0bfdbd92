"""Settles the requests whose meter died: their holds ran out, and nobody else will."""

from __future__ import annotations

import asyncio

import structlog

from gateway.errors import StoreUnavailable
from gateway.quota.port import ExpiredHold, Quota
from gateway.record.entry import Ending, Entry, settled_entry
from gateway.values import Outcome, Usage, UsageSource

log = structlog.get_logger()

INTERVAL_S = 2.0
BATCH_MAX = 200


class Reaper:
    """Any number of them may run: settling is idempotent and only takes holds that are still expired.

    While the store is away nobody can renew, so behind an outage every hold looks expired: the meters get a whole
    lease, `lease_s`, to renew before anything is reaped.
    """

    def __init__(self, quota: Quota, lease_s: float) -> None:
        self._quota = quota
        self._lease_s = lease_s

    async def reap(self) -> int:
        """Settles what has expired by now; returns how many. Raises StoreUnavailable."""
        settled = 0
        for expired in await self._quota.expired(BATCH_MAX):
            if await self._quota.settle(lost_entry(expired), only_if_expired=True):
                settled += 1
                log.warning("request_lost", request_id=expired.hold.request_id)
        return settled

    async def run(self) -> None:
        """For ever."""
        was_away = False
        while True:
            try:
                if was_away:
                    await self._quota.expired(1)
                    await asyncio.sleep(self._lease_s)
                    was_away = False
                if await self.reap() == BATCH_MAX:
                    continue
            except StoreUnavailable as error:
                was_away = True
                log.warning("reaper_waits", reason=str(error))
            await asyncio.sleep(INTERVAL_S)


def lost_entry(expired: ExpiredHold) -> Entry:
    """The entry of a request that nobody settled, at the progress its meter reported last."""
    hold, progress = expired.hold, expired.progress
    known = progress.input_tokens or progress.output_tokens
    source = UsageSource.COUNTED if known else UsageSource.NONE
    usage = Usage(progress.input_tokens, progress.output_tokens, source)
    ending = Ending(Outcome.LOST, status=503, usage=usage, response_bytes=progress.response_bytes)
    return settled_entry(hold.grant(), ending)
