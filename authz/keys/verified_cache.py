"""The keys this process has verified, so that Argon2id is paid once per key and process instead of once per request."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace

from pydantic import SecretStr

from authz.keys.repository import StoredKey

SIZE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """A stored key whose secret was checked. When its policy has changed since, it is not current and is read again."""

    stored: StoredKey
    current: bool = True


class VerifiedKeyCache:
    """At most `size_max` keys, the least recently used leaves first. Keeps no key, only a digest keyed by this process.

    `changes` counts the notifications of the change listener. A reader of the store compares it before and after, so
    that an older read never overwrites a concurrent revocation.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self.changes = 0
        self._size_max = size_max
        self._pepper = secrets.token_bytes(32)
        self._by_digest: OrderedDict[bytes, VerifiedKey] = OrderedDict()

    def digest(self, key: SecretStr) -> bytes:
        """What stands for `key` in this process."""
        return hmac.digest(self._pepper, key.get_secret_value().encode(), "sha256")

    def get(self, digest: bytes) -> VerifiedKey | None:
        """The verified key, or None."""
        if digest in self._by_digest:
            self._by_digest.move_to_end(digest)
        return self._by_digest.get(digest)

    def put(self, digest: bytes, stored: StoredKey) -> None:
        """Notes a key that was verified just now."""
        self._by_digest[digest] = VerifiedKey(stored)
        self._by_digest.move_to_end(digest)
        while len(self._by_digest) > self._size_max:
            self._by_digest.popitem(last=False)

    def evict(self, prefix: str) -> None:
        """Forgets a revoked key."""
        self.changes += 1
        for digest in [d for d, key in self._by_digest.items() if key.stored.principal.key_prefix == prefix]:
            del self._by_digest[digest]

    def outdate(self, tenant_id: int | None) -> None:
        """Marks the keys of a tenant, or with None all keys, to be read again before they are used."""
        self.changes += 1
        for digest, key in self._by_digest.items():
            if tenant_id is None or key.stored.principal.tenant_id == tenant_id:
                self._by_digest[digest] = replace(key, current=False)
