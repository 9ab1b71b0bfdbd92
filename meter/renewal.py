"""Renews the holds of running requests, with the progress they have made."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.errors import StoreUnavailable
from gateway.loops import forever
from gateway.quota.port import Progress, Quota
from meter.exchange import Exchange

log = structlog.get_logger()

# How often the progress of a running request is stored. A killed meter loses the progress of this time.
INTERVAL_S = 1.0
# A request with a slot is renewed so long after its admission at the latest; the lease of a granted slot is 5 s.
FIRST_RENEWAL_S = 1.0
# A hold without progress survives two renewals that fail.
RENEWALS_PER_LEASE = 3


@dataclass(slots=True)
class _Running:
    """A request, and the progress in its hold with the time (monotonic, s) of its last renewal; None to renew it."""

    exchange: Exchange
    renewed: tuple[Progress, float] | None

    def is_due(self, progress: Progress, now_s: float, idle_s: float) -> bool:
        """Whether the hold lacks `progress`, or its last renewal is `idle_s` ago."""
        if self.renewed is None:
            return True
        stored, renewed_s = self.renewed
        return progress != stored or now_s - renewed_s >= idle_s


class Renewal:
    """The requests that run in this process, by request id.

    Each hold is renewed every INTERVAL_S while its request makes progress, and otherwise every third of a lease, so
    that a request that waits for its backend costs almost nothing. `lease_s` is in seconds, and so is `monotonic`.
    """

    def __init__(self, quota: Quota, lease_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._quota = quota
        self._idle_s = lease_s / RENEWALS_PER_LEASE
        self._monotonic = monotonic
        self._running: dict[str, _Running] = {}
        # By tenant: the tokens of requests that have ended, less those of requests that were added again.
        self._ended_tokens: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._all_are_due = False

    @property
    def running(self) -> int:
        """The number of requests whose holds are renewed."""
        return len(self._running)

    def delivered_tokens(self) -> Counter[str]:
        """The output tokens that this process has delivered since its start, by tenant, running requests included.

        A backend's own count at the end of an answer replaces the counted frames, so a sum may decrease a little.
        """
        tokens = self._ended_tokens.copy()
        for running in self._running.values():
            tokens[running.exchange.grant.tenant] += running.exchange.output_tokens
        return tokens

    def add(self, exchange: Exchange) -> None:
        """From now on its hold is renewed. The admission counts as the first renewal."""
        self._ended_tokens[exchange.grant.tenant] -= exchange.output_tokens
        renewed_s = self._monotonic()
        if exchange.grant.replica:
            # A granted slot has a short lease until its first renewal.
            renewed_s -= max(0.0, self._idle_s - FIRST_RENEWAL_S)
        self._running[exchange.grant.request_id] = _Running(exchange, (exchange.progress, renewed_s))

    def discard(self, exchange: Exchange) -> None:
        """It has ended; its hold is no longer renewed."""
        if self._running.pop(exchange.grant.request_id, None) is not None:
            self._ended_tokens[exchange.grant.tenant] += exchange.output_tokens

    def at_once(self) -> None:
        """Renews every hold now, because the store may have lost them."""
        self._all_are_due = True
        self._wake.set()

    async def run(self) -> None:
        """Renews the holds that are due each INTERVAL_S, or each third of a shorter lease, until cancelled."""
        await forever(self.renew_due, min(INTERVAL_S, self._idle_s), on_error="renewal_failed", wake=self._wake)

    async def renew_due(self) -> None:
        """Renews the holds whose progress has changed or whose last renewal is a third of a lease ago."""
        all_are_due, self._all_are_due = self._all_are_due, False
        now_s = self._monotonic()
        due: list[tuple[_Running, Progress]] = []
        for running in self._running.values():
            progress = running.exchange.progress
            if all_are_due or running.is_due(progress, now_s, self._idle_s):
                due.append((running, progress))
        replies = await self._quota.renew_all([(running.exchange.hold, progress) for running, progress in due])
        failures: list[StoreUnavailable] = []
        for (running, progress), reply in zip(due, replies, strict=True):
            if isinstance(reply, StoreUnavailable):
                running.renewed = None
                failures.append(reply)
                continue
            running.renewed = progress, now_s
            request_id = running.exchange.grant.request_id
            if not reply and self._running.get(request_id) is running:
                # The request was settled elsewhere, so nothing that follows would be accounted.
                running.exchange.lose_lease()
                log.warning("lease_lost", request_id=request_id)
        if failures:
            log.warning("renewal_failed", holds=len(failures), reason=str(failures[0]))
