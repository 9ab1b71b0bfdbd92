"""Finds out why an answer broke off, before its entry is made final.

Envoy closes a meter's stream in the same way whoever went away, and says only in its access log who it was. That goes
to one meter, which need not be the one of the request.
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

# Envoy writes its log when the request ends, so the word is there at once or, when Envoy died too, never.
WAIT_S = 1.0
LOOK_EVERY_S = 0.05
# A meter that heard of a request has settled it by then, unless Redis is away.
ORPHAN_AFTER_S = 2.0
TASKS_MAX = 1000


class SharedCauses(Protocol):
    """What the meters tell each other; see `meter.access_log.disconnect_store`."""

    async def note(self, request_id: str, by_upstream: bool) -> None: ...

    async def by_upstream(self, request_id: str) -> bool | None: ...


class DisconnectCauses:
    """`submit` takes the final entries."""

    def __init__(self, shared: SharedCauses, quota: Quota, submit: Callable[[Entry], None]) -> None:
        self._shared = shared
        self._quota = quota
        self._submit = submit
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, request_id: str, by_upstream: bool) -> None:
        """Envoy's word about an answer that broke off."""
        if len(self._tasks) < TASKS_MAX:
            self._begin(self._note(request_id, by_upstream))

    def settle(self, entry: Entry) -> None:
        """Takes over the entry of an answer that broke off; without further word, it was the caller who left."""
        if len(self._tasks) < TASKS_MAX:
            self._begin(self._settle(entry))
        else:
            self._submit(entry)

    def settle_orphan(self, request_id: str) -> None:
        """A caller left before any answer, perhaps before Envoy or a meter had heard that it was admitted.

        A meter that did settles by itself, at once. If the hold is still there after that, it is nobody's.
        """
        if len(self._tasks) < TASKS_MAX:
            self._begin(self._settle_orphan(request_id))

    async def close(self) -> None:
        """Waits for no word any more: what is open becomes final as it is."""
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
            log.info("ending_not_shared", request_id=request_id, reason=str(error))

    async def _settle(self, entry: Entry) -> None:
        final = entry
        try:
            async with asyncio.timeout(WAIT_S):
                if await self._reset_by_upstream(entry.request_id):
                    final = replace(entry, outcome=Outcome.UPSTREAM_ERROR, code=str(Code.BACKEND_ERROR))
        except (TimeoutError, StoreUnavailable) as error:
            log.info("ending_unknown", request_id=entry.request_id, reason=str(error) or "no word of it")
        finally:
            self._submit(final)

    async def _settle_orphan(self, request_id: str) -> None:
        await asyncio.sleep(ORPHAN_AFTER_S)
        try:
            hold = await self._quota.held(request_id)
        except StoreUnavailable as error:
            log.info("ending_unknown", request_id=request_id, reason=str(error))
        else:
            if hold is not None:
                self._submit(settled_entry(hold.grant(), CLIENT_GONE))

    async def _reset_by_upstream(self, request_id: str) -> bool:
        while True:
            if (died := await self._shared.by_upstream(request_id)) is not None:
                return died
            await asyncio.sleep(LOOK_EVERY_S)
