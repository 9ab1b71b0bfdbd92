"""Whose key is this? Shape and checksum, then the keys this process verified, then PostgreSQL and Argon2id.

Missing, malformed, unknown, wrong, revoked, expired and disabled are one and the same answer. A store that does not
answer raises StoreUnavailable, which becomes a 503: it says nothing about the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from pydantic import SecretStr

from authz.keys.change_listener import ChangeListener
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import ApiKey, parse
from authz.keys.repository import KeyRepository, StoredKey
from authz.keys.verified_cache import VerifiedKeyCache
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.values import Principal

log = structlog.get_logger()


class Authenticator:
    """Turns a presented key into a Principal. One per process; `now` gives aware UTC times."""

    def __init__(
        self,
        key_repository: KeyRepository,
        hasher: KeyHasher,
        change_listener: ChangeListener,
        verified: VerifiedKeyCache,
        *,
        trust_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._key_repository = key_repository
        self._hasher = hasher
        self._change_listener = change_listener
        self._verified = verified
        self._trust_s = trust_s
        self._now = now
        self._verifying: dict[bytes, asyncio.Task[StoredKey | None]] = {}
        self._rehashing: set[asyncio.Task[None]] = set()

    async def authenticate(self, presented: SecretStr | None) -> Principal:
        """The principal of `presented`.

        Raises Denied(invalid_api_key) for whatever is wrong with the key, and StoreUnavailable when it cannot be
        checked, or when revocations have not been heard of for `trust_s`.
        """
        key = parse(presented.get_secret_value()) if presented else None
        if key is None:
            raise Denied(Code.INVALID_API_KEY)
        stored = await self._stored(key)
        if stored is None or not stored.is_usable(self._now()):
            raise Denied(Code.INVALID_API_KEY)
        return stored.principal

    def knows(self, presented: SecretStr | None) -> bool:
        """Whether this process has verified `presented` before; says nothing about whether it is still good."""
        return presented is not None and self._verified.get(self._verified.digest(presented)) is not None

    async def _stored(self, key: ApiKey) -> StoredKey | None:
        digest = self._verified.digest(key.secret)
        known = self._verified.get(digest)
        if known is not None and known.current:
            if self._change_listener.staleness_s > self._trust_s:
                raise StoreUnavailable("revocations have not been heard of for too long")
            return known.stored
        # Requests that come with the same new key at once pay for one verification.
        task = self._verifying.get(digest)
        if task is None:
            task = asyncio.create_task(self._verify(digest, key, known.stored if known else None))
            self._verifying[digest] = task
            task.add_done_callback(lambda done: self._on_verified(digest, done))
        return await asyncio.shield(task)

    def _on_verified(self, digest: bytes, task: asyncio.Task[StoredKey | None]) -> None:
        del self._verifying[digest]
        if not task.cancelled():
            task.exception()  # Retrieved here too, in case everybody who waited has left.

    async def _verify(self, digest: bytes, key: ApiKey, known: StoredKey | None) -> StoredKey | None:
        """Reads the key until what was read is from after the last change heard, then trusts it."""
        checked = known.hash if known else None
        while True:
            changes = self._verified.changes
            stored = await self._key_repository.find_key(key.prefix)
            if stored is None or stored.hash != checked:
                if not await self._hasher.verify(stored.hash if stored else None, key.secret) or stored is None:
                    return None
                checked = stored.hash
            if changes == self._verified.changes:
                break
        if stored.is_usable(self._now()):
            self._verified.put(digest, stored)
            self._rehash_if_needed(key, stored)
        return stored

    def _rehash_if_needed(self, key: ApiKey, stored: StoredKey) -> None:
        if self._hasher.needs_rehash(stored.hash):
            task = asyncio.create_task(self._rehash(key, stored))
            self._rehashing.add(task)
            task.add_done_callback(self._rehashing.discard)

    async def _rehash(self, key: ApiKey, stored: StoredKey) -> None:
        try:
            new = await self._hasher.hash(key.secret)
            await self._key_repository.store_hash(stored.principal.key_id, stored.hash, new)
        except StoreUnavailable as error:
            log.warning("rehash_postponed", key_prefix=key.prefix, reason=str(error))
