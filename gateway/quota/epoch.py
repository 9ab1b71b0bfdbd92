"""Notices that the quota's store was restarted or lost its data, and has it told again what it may have forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.errors import StoreUnavailable
from gateway.quota.port import Quota

log = structlog.get_logger()

# Several looks fit into the time for which a new epoch admits nothing.
LOOK_EVERY_S = 0.25


class EpochWatch:
    """`on_new` is called, without waiting for anything, whenever another epoch has begun."""

    def __init__(self, quota: Quota, *on_new: Callable[[], None]) -> None:
        self._quota = quota
        self._on_new = on_new
        self._name: str | None = None

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                name = (await self._quota.epoch()).name
            except StoreUnavailable as error:
                log.debug("epoch_unknown", reason=str(error))
            else:
                if self._name not in (None, name):
                    log.warning("store_may_have_lost_data")
                    for call in self._on_new:
                        call()
                self._name = name
            await asyncio.sleep(LOOK_EVERY_S)
