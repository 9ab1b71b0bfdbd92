"""Records in PostgreSQL when keys were last used, in batches, off the path of requests."""

from __future__ import annotations

from authz.keys.repository import KeyRepository
from gateway.errors import StoreUnavailable
from gateway.loops import forever

INTERVAL_S = 2.0


class LastUsed:
    """A set of key ids, bounded by the number of verified keys, that is written every `interval_s`."""

    def __init__(self, key_repository: KeyRepository, interval_s: float = INTERVAL_S) -> None:
        self._key_repository = key_repository
        self._interval_s = interval_s
        self._key_ids: set[int] = set()

    def note(self, key_id: int) -> None:
        """The key was used."""
        self._key_ids.add(key_id)

    async def run(self) -> None:
        """Writes until cancelled. While PostgreSQL is unavailable the ids wait."""
        await forever(self._write, self._interval_s, on_error="last_used_not_written", jitter=0.25)

    async def _write(self) -> None:
        if not self._key_ids:
            return
        key_ids, self._key_ids = self._key_ids, set()
        try:
            await self._key_repository.touch(key_ids)
        except StoreUnavailable:
            self._key_ids |= key_ids
            raise
