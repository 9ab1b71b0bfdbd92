"""Notes in PostgreSQL when keys were last used, in batches, off the path of requests."""

from __future__ import annotations

import asyncio

import structlog

from authz.keys.repository import KeyRepository
from gateway.errors import StoreUnavailable

log = structlog.get_logger()

INTERVAL_S = 2.0


class LastUsed:
    """A set of key ids, at most as many as there are verified keys, written every INTERVAL_S."""

    def __init__(self, key_repository: KeyRepository) -> None:
        self._key_repository = key_repository
        self._key_ids: set[int] = set()

    def note(self, key_id: int) -> None:
        """The key was used."""
        self._key_ids.add(key_id)

    async def run(self) -> None:
        """Writes for ever; while PostgreSQL is away the ids wait."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if not self._key_ids:
                continue
            key_ids, self._key_ids = self._key_ids, set()
            try:
                await self._key_repository.touch(key_ids)
            except StoreUnavailable as error:
                self._key_ids |= key_ids
                log.warning("last_used_not_written", reason=str(error))
