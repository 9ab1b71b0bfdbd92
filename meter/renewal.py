"""Keeps the holds of running requests alive, with the progress they have made."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from gateway.errors import StoreUnavailable
from gateway.quota.port import Quota
from meter.exchange import Exchange

log = structlog.get_logger()

# A hold survives two renewals that fail.
RENEWALS_PER_LEASE = 3
PARALLEL_MAX = 16


class Renewal:
    """The requests that run in this process."""

    def __init__(self, quota: Quota, lease_s: float) -> None:
        self._quota = quota
        self._interval_s = lease_s / RENEWALS_PER_LEASE
        self._running: set[Exchange] = set()
        self._wanted = asyncio.Event()

    def add(self, exchange: Exchange) -> None:
        """From now on its hold is renewed."""
        self._running.add(exchange)

    def discard(self, exchange: Exchange) -> None:
        """It has ended."""
        self._running.discard(exchange)

    def at_once(self) -> None:
        """The store may have lost the holds: all of them are renewed now."""
        self._wanted.set()

    async def run(self) -> None:
        """Renews all of them every third of a lease, for ever."""
        places = asyncio.Semaphore(PARALLEL_MAX)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wanted.wait()
            self._wanted.clear()
            await asyncio.gather(*(self._renew(exchange, places) for exchange in tuple(self._running)))

    async def _renew(self, exchange: Exchange, places: asyncio.Semaphore) -> None:
        async with places:
            if exchange not in self._running:
                return
            try:
                renewed = await self._quota.renew(exchange.hold, exchange.progress)
                if not renewed and exchange in self._running:
                    # Somebody settled it for us: nothing that follows would be accounted.
                    exchange.lose_lease()
                    log.warning("lease_lost", request_id=exchange.hold.request_id)
            except StoreUnavailable as error:
                log.warning("renewal_failed", request_id=exchange.hold.request_id, reason=str(error))
