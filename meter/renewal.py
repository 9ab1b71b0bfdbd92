"""Renews the holds of running requests, with the progress they have made."""

from __future__ import annotations

import asyncio

import structlog

from gateway.errors import StoreUnavailable
from gateway.loops import forever
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
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(PARALLEL_MAX)

    def add(self, exchange: Exchange) -> None:
        """From now on its hold is renewed."""
        self._running.add(exchange)

    def discard(self, exchange: Exchange) -> None:
        """It has ended; its hold is no longer renewed."""
        self._running.discard(exchange)

    def at_once(self) -> None:
        """Renews every hold now, because the store may have lost them."""
        self._wake.set()

    async def run(self) -> None:
        """Renews every hold each third of a lease, until cancelled."""
        await forever(self._renew_all, self._interval_s, on_error="renewal_failed", wake=self._wake)

    async def _renew_all(self) -> None:
        await asyncio.gather(*(self._renew(exchange) for exchange in tuple(self._running)))

    async def _renew(self, exchange: Exchange) -> None:
        async with self._slots:
            if exchange not in self._running:
                return
            try:
                renewed = await self._quota.renew(exchange.hold, exchange.progress)
            except StoreUnavailable as error:
                log.warning("renewal_failed", request_id=exchange.hold.request_id, reason=str(error))
                return
            if not renewed and exchange in self._running:
                # The request was settled elsewhere, so nothing that follows would be accounted.
                exchange.lose_lease()
                log.warning("lease_lost", request_id=exchange.hold.request_id)
