"""Records in PostgreSQL when keys were last used: in batches, off the path of requests, once a minute per key."""

from __future__ import annotations

from datetime import timedelta

from authz.keys.repository import KeyRepository
from gateway.errors import StoreUnavailable
from gateway.loops import forever

INTERVAL_S = 60.0
_FLUSHES_PER_INTERVAL = 6


class LastUsed:
    """The keys that were used since the last flush, bounded by the number of verified keys.

    A flush writes only the keys that no worker has written within `interval_s`. There are several flushes per interval,
    so that the first use of a key is visible after a few seconds.
    """

    def __init__(self, key_repository: KeyRepository, interval_s: float = INTERVAL_S) -> None:
        self._key_repository = key_repository
        self._interval = timedelta(seconds=interval_s)
        self._flush_every_s = interval_s / _FLUSHES_PER_INTERVAL
        self._prefixes: set[str] = set()

    def note(self, prefix: str) -> None:
        """The key with this prefix was used."""
        self._prefixes.add(prefix)

    async def run(self) -> None:
        """Writes until cancelled. While PostgreSQL is unavailable the keys wait."""
        await forever(self.flush, self._flush_every_s, on_error="last_used_not_written", jitter=0.25)

    async def flush(self) -> None:
        """Writes the keys that were noted. Raises StoreUnavailable, and then they wait for the next flush."""
        if not self._prefixes:
            return
        prefixes, self._prefixes = self._prefixes, set()
        try:
            await self._key_repository.touch(prefixes, self._interval)
        except StoreUnavailable:
            self._prefixes |= prefixes
            raise
