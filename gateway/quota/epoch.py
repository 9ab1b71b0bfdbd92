"""Notices that the quota's store was restarted or lost its data, and has lost holds and entries resubmitted."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gateway.loops import Backoff, forever
from gateway.metrics.stores import REDIS_EPOCHS
from gateway.quota.port import Quota

log = structlog.get_logger()

# Several polls fit into RESTORE_S, the time for which a new epoch admits nothing.
POLL_S = 0.25
_BACKOFF = Backoff(first_s=POLL_S, max_s=POLL_S)


class EpochWatch:
    """Calls each of `on_new`, which must not block, whenever another epoch has begun."""

    def __init__(self, quota: Quota, *on_new: Callable[[], None], poll_s: float = POLL_S) -> None:
        self._quota = quota
        self._on_new = on_new
        self._poll_s = poll_s
        self._name: str | None = None

    async def run(self) -> None:
        """Polls until cancelled."""
        await forever(self._poll, self._poll_s, on_error="epoch_unknown", backoff=_BACKOFF)

    async def _poll(self) -> None:
        name = (await self._quota.epoch()).name
        if self._name not in (None, name):
            log.warning("store_may_have_lost_data")
            REDIS_EPOCHS.inc()
            for call in self._on_new:
                call()
        self._name = name
