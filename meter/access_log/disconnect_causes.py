"""Finds out which peer ended a broken-off answer, before its entry is final.

Envoy closes the meter's stream in the same way in both cases, and only its access log records the cause. That record
goes to one meter, which need not be the one of the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

import structlog

from gateway.errors import Code, StoreUnavailable
from gateway.quota.port import Quota
from gateway.record.entry import CLIENT_GONE, Entry, settled_entry
from gateway.values import Outcome

log = structlog.get_logger()

# The log record arrives immediately, or never if Envoy crashed.
WAIT_S = 1.0
POLL_S = 0.05
# A meter that received the request has settled it by then, unless Redis is unavailable.
ORPHAN_AFTER_S = 2.0
TASKS_MAX = 1000


class SharedCauses(Protocol):
    """The causes that the meters share; see `meter.access_log.disconnect_store`."""

    async def note(self, request_id: str, by_upstream: bool) -> None: ...

    async def by_upstream(self, request_id: str) -> bool | None: ...


class DisconnectCauses:
    """`submit` accepts the final entries.

    `wait_s` bounds the wait for a cause, `orphan_after_s` is how long the hold of a request without an answer is left
    to its meter.
    """

    def __init__(
        self,
        shared: SharedCauses,
        quota: Quota,
        submit: Callable[[Entry], None],
        *,
        wait_s: float = WAIT_S,
        orphan_after_s: float = ORPHAN_AFTER_S,
    ) -> None:
        self._shared = shared
        self._quota = quota
        self._submit = submit
        self._wait_s = wait_s
        self._orphan_after_s = orphan_after_s
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, request_id: str, by_upstream: bool) -> None:
        """Shares the cause that Envoy recorded for a broken-off answer."""
        if len(self._tasks) < TASKS_MAX:
            self._begin(self._note(request_id, by_upstream))

    def settle(self, entry: Entry) -> None:
        """Accepts the entry of a broken-off answer. Without a recorded cause the caller ended it."""
        if len(self._tasks) < TASKS_MAX:
            self._begin(self._settle(entry))
        else:
            self._submit(entry)

    def settle_orphan(self, request_id: str) -> None:
        """Settles the hold of a caller that left before any answer, if no meter does.

        A meter that has received the request settles it at once. A hold that is still there afterwards is an orphan:
        the caller left before Envoy or a meter learned that it was admitted.
        """
        if len(self._tasks) < TASKS_MAX:
            self._begin(self._settle_orphan(request_id))

    async def close(self) -> None:
        """Stops waiting. Pending entries are submitted unchanged."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note(self, request_id: str, by_upstream: bool) -> None:
        try:
            await self._shared.note(request_id, by_upstream)
        except StoreUnavailable as error:
            log.info("cause_not_shared", request_id=request_id, reason=str(error))

    async def _settle(self, entry: Entry) -> None:
        final = entry
        try:
            async with asyncio.timeout(self._wait_s):
                if await self._reset_by_upstream(entry.request_id):
                    final = replace(entry, outcome=Outcome.UPSTREAM_ERROR, code=str(Code.BACKEND_ERROR))
        except (TimeoutError, StoreUnavailable) as error:
            log.info("cause_unknown", request_id=entry.request_id, reason=str(error) or "no record")
        finally:
            self._submit(final)

    async def _settle_orphan(self, request_id: str) -> None:
        await asyncio.sleep(self._orphan_after_s)
        try:
            hold = await self._quota.held(request_id)
            if hold is not None:
                self._submit(settled_entry(hold.grant(), CLIENT_GONE))
        except StoreUnavailable as error:
            log.info("cause_unknown", request_id=request_id, reason=str(error))
        except ValueError as error:
            log.error("hold_unreadable", request_id=request_id, reason=str(error))

    async def _reset_by_upstream(self, request_id: str) -> bool:
        # Not `forever`: it ends with a result, and an error ends the wait too.
        while True:
            if (died := await self._shared.by_upstream(request_id)) is not None:
                return died
            await asyncio.sleep(POLL_S)
