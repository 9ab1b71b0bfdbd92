"""The audit row of a refused request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from authz.checked_request import CheckedRequest
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import TEXT_LENGTH_MAX
from gateway.quota.port import Quota
from gateway.record.entry import Entry
from gateway.values import Outcome, Principal, UsageSource
from gateway.wire.surfaces import Surface

log = structlog.get_logger()


@dataclass(slots=True)
class DenialContext:
    """What had been found out about a request when it was refused."""

    principal: Principal | None = None
    surface: Surface | None = None
    model: str | None = None
    stream: bool = False


class Denials:
    """Writes one entry per refusal. `now` gives seconds since the epoch."""

    def __init__(self, quota: Quota, outbox: Outbox, now: Callable[[], float] = time.time) -> None:
        self._quota = quota
        self._outbox = outbox
        self._now = now

    async def record(self, attempt: CheckedRequest, known: DenialContext, denial: Denied) -> Denied:
        """Records the refusal and returns what to answer: `denial` itself, or audit_backlog when there is no room left
        for rows.

        A row that a caller could count on is written before the answer. Where a store is away, most likely the one that
        is needed now, it is left to the outbox, and the answer waits no longer.
        """
        entry = self._entry(attempt, known, denial)
        if denial.code is not Code.UNAVAILABLE:
            try:
                await self._quota.record(entry)
            except Denied as backlog:
                return backlog
            except StoreUnavailable as error:
                log.info("denial_waits", request_id=entry.request_id, reason=str(error))
            else:
                self._outbox.retain(entry)
                return denial
        if self._outbox.full:
            log.warning("denial_not_recorded", request_id=entry.request_id, code=entry.code)
        else:
            self._outbox.submit(entry)
        return denial

    def _entry(self, attempt: CheckedRequest, known: DenialContext, denial: Denied) -> Entry:
        principal = known.principal
        return Entry(
            request_id=attempt.request_id,
            ts_ms=int(self._now() * 1000),
            tenant_id=principal.tenant_id if principal else None,
            tenant=principal.tenant if principal else None,
            key_id=principal.key_id if principal else None,
            key_prefix=principal.key_prefix if principal else None,
            client_ip=attempt.client_ip,
            method=attempt.method,
            # No more is stored; the whole would only wait in Redis and in memory.
            path=attempt.path[:TEXT_LENGTH_MAX],
            surface=known.surface.name if known.surface else None,
            model=known.model,
            backend=None,
            status=denial.status,
            code=str(denial.code),
            outcome=Outcome.DENIED,
            stream=known.stream,
            input_tokens=0,
            output_tokens=0,
            usage_source=UsageSource.NONE,
            reserved_tokens=0,
            ttft_ms=None,
            duration_ms=None,
            request_bytes=len(attempt.body),
            response_bytes=0,
            user_agent=attempt.user_agent,
        )
