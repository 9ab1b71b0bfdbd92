"""The audit row of a refused request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from authz.attempt import Attempt
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.ledger import Entry
from gateway.quota.port import Quota
from gateway.surfaces import Surface
from gateway.values import Outcome, Principal, UsageSource

log = structlog.get_logger()

LATE_MAX = 1000


@dataclass(slots=True)
class Known:
    """What had been found out about a request when it was refused."""

    principal: Principal | None = None
    surface: Surface | None = None
    model: str | None = None
    stream: bool = False


class Denials:
    """Writes one entry per refusal into the event stream. `now` gives seconds since the epoch."""

    def __init__(self, quota: Quota, now: Callable[[], float] = time.time) -> None:
        self._quota = quota
        self._now = now
        self._late: set[asyncio.Task[None]] = set()

    async def record(self, attempt: Attempt, known: Known, denial: Denied) -> Denied:
        """Records the refusal and returns what to answer.

        That is `denial` itself, or audit_backlog when the stream has no room left for rows. A stream that cannot be
        reached leaves the answer a refusal all the same; the log then says which row is missing.
        """
        principal = known.principal
        entry = Entry(
            request_id=attempt.request_id,
            ts_ms=int(self._now() * 1000),
            tenant_id=principal.tenant_id if principal else None,
            tenant=principal.tenant if principal else None,
            key_id=principal.key_id if principal else None,
            key_prefix=principal.key_prefix if principal else None,
            client_ip=attempt.client_ip,
            method=attempt.method,
            path=attempt.path,
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
        if denial.code is Code.UNAVAILABLE:
            # A store is away, most likely the one that is needed now: the answer does not wait for it again.
            self._record_late(entry)
            return denial
        try:
            await self._record(entry)
        except Denied as backlog:
            return backlog
        return denial

    async def _record(self, entry: Entry) -> None:
        try:
            await self._quota.record(entry)
        except StoreUnavailable as error:
            log.warning("denial_not_recorded", request_id=entry.request_id, code=entry.code, reason=str(error))

    def _record_late(self, entry: Entry) -> None:
        if len(self._late) >= LATE_MAX:
            log.warning("denial_not_recorded", request_id=entry.request_id, code=entry.code, reason="too many wait")
            return
        task = asyncio.create_task(self._record(entry))
        self._late.add(task)
        task.add_done_callback(self._recorded_late)

    def _recorded_late(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Denied):
            log.warning("denial_not_recorded", reason=str(error))
