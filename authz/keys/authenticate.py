"""From a presented credential to its principal: its shape, the cache of verified keys, PostgreSQL, and Argon2id.

The signature of an identity takes the place of Argon2id, and is verified for each request. Missing, malformed, unknown,
wrong, revoked, expired and disabled credentials get the identical answer. A store that does not
answer raises StoreUnavailable, which becomes a 503, because it is no statement about the credential.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import SecretStr

from authz.keys.change_listener import ChangeListener
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import ApiKey, parse
from authz.keys.refusal import KeyRefused
from authz.keys.repository import KeyRepository, StoredKey
from authz.keys.signed_request import SignedRequest
from authz.keys.verified_cache import VerifiedKey, VerifiedKeyCache
from gateway.errors import StoreUnavailable
from gateway.values import Principal, Refusal

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A presented credential after the one look into the cache of verified keys.

    `key` is None when the credential is missing or malformed, and for a verified key that is current, because it is not
    read again. `verified` is None when this process has not verified the key before, and for a signature that does not
    count; otherwise it still has to be checked for being usable.
    """

    key: ApiKey | SignedRequest | None
    digest: bytes
    verified: VerifiedKey | None


_MALFORMED = PresentedKey(None, b"", None)


class Authenticator:
    """Turns a presented credential into a Principal. One per process; `now` gives aware UTC times.

    A signature counts for `identity_window_s` before and after the time that it states; 0 accepts none.
    """

    def __init__(
        self,
        key_repository: KeyRepository,
        hasher: KeyHasher,
        change_listener: ChangeListener,
        verified: VerifiedKeyCache,
        *,
        trust_s: float,
        identity_window_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._key_repository = key_repository
        self._hasher = hasher
        self._change_listener = change_listener
        self._verified = verified
        self._trust_s = trust_s
        self._identity_window_s = identity_window_s
        self._now = now
        self._verifications: dict[bytes, asyncio.Task[StoredKey | Refusal]] = {}
        self._rehashes: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """The number of keys that are being verified or hashed anew."""
        return len(self._verifications) + len(self._rehashes)

    def look_up(self, credential: SecretStr | SignedRequest | None) -> PresentedKey:
        """Checks the shape of `credential` and looks it up among the verified keys. No I/O.

        The signature of a known identity is verified here. That of an unknown one costs nothing before its address is
        known to have failed rarely.
        """
        if isinstance(credential, SignedRequest):
            digest = credential.blob.encode()
            known = self._verified.get(digest)
            counts = known is not None and credential.refusal(self._identity_window_s) is None
            return PresentedKey(credential, digest, known if counts else None)
        if credential is None:
            return _MALFORMED
        digest = self._verified.digest(credential)
        verified = self._verified.get(digest)
        if verified is not None and verified.current:
            return PresentedKey(None, digest, verified)
        key = parse(credential.get_secret_value())
        return _MALFORMED if key is None else PresentedKey(key, digest, verified)

    async def authenticate(self, presented: PresentedKey) -> Principal:
        """The principal of a credential that was looked up.

        Raises KeyRefused for anything that is wrong with it. Raises StoreUnavailable when it cannot be checked, or
        when the process has not received revocations for `trust_s`.
        """
        stored = await self._stored(presented)
        if isinstance(stored, Refusal):
            raise KeyRefused(stored)
        refusal = stored.refusal(self._now())
        if refusal is not None:
            raise KeyRefused(refusal, stored.principal)
        return stored.principal

    async def _stored(self, presented: PresentedKey) -> StoredKey | Refusal:
        key, digest, verified = presented.key, presented.digest, presented.verified
        if verified is not None and verified.current:
            if self._change_listener.staleness_s > self._trust_s:
                raise StoreUnavailable("no revocations have been received for too long")
            return verified.stored
        if key is None:
            return Refusal.MALFORMED
        if isinstance(key, SignedRequest) and verified is None:
            refusal = key.refusal(self._identity_window_s)
            if refusal is not None:
                return refusal
        # Requests that present the same new key at the same time share one verification. Those of the same identity
        # share the read of its key; each of their signatures was verified above or when it was looked up.
        task = self._verifications.get(digest)
        if task is None:
            if isinstance(key, SignedRequest):
                task = asyncio.create_task(self._find_identity(digest, key.blob))
            else:
                task = asyncio.create_task(self._verify(digest, key, verified.stored if verified else None))
            self._verifications[digest] = task
            task.add_done_callback(lambda done: self._on_verified(digest, done))
        return await asyncio.shield(task)

    def _on_verified(self, digest: bytes, task: asyncio.Task[StoredKey | Refusal]) -> None:
        del self._verifications[digest]
        if not task.cancelled():
            task.exception()  # Retrieved here too, in case every caller has disconnected.

    async def _verify(self, digest: bytes, key: ApiKey, known: StoredKey | None) -> StoredKey | Refusal:
        """Reads the key again until no change was notified during the read, then caches it."""
        checked = known.hash if known else None
        while True:
            changes = self._verified.changes
            stored = await self._key_repository.find_key(key.prefix)
            if stored is None or stored.hash != checked:
                matches = await self._hasher.verify(stored.hash if stored else None, key.secret)
                if not matches or stored is None:
                    return Refusal.WRONG_SECRET if stored else Refusal.UNKNOWN
                checked = stored.hash
            if changes == self._verified.changes:
                break
        if stored.is_usable(self._now()):
            self._verified.put(digest, stored)
            self._rehash_if_needed(key, stored)
        return stored

    async def _find_identity(self, digest: bytes, blob: str) -> StoredKey | Refusal:
        """Reads the key of an identity again until no change was notified during the read, then caches it."""
        while True:
            changes = self._verified.changes
            stored = await self._key_repository.find_identity(blob)
            if changes == self._verified.changes:
                break
        if stored is None:
            self._verified.discard(digest)
            return Refusal.UNKNOWN
        if stored.is_usable(self._now()):
            self._verified.put(digest, stored)
        return stored

    def _rehash_if_needed(self, key: ApiKey, stored: StoredKey) -> None:
        if self._hasher.needs_rehash(stored.hash):
            task = asyncio.create_task(self._rehash(key, stored))
            self._rehashes.add(task)
            task.add_done_callback(self._rehashes.discard)

    async def _rehash(self, key: ApiKey, stored: StoredKey) -> None:
        try:
            new = await self._hasher.hash(key.secret)
            await self._key_repository.store_hash(key.prefix, stored.hash, new)
        except StoreUnavailable as error:
            log.warning("rehash_postponed", key_prefix=key.prefix, reason=str(error))
