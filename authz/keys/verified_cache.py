"""The keys that this process has verified, so that Argon2id runs once per key and process, not once per request.

The identities of Ollama installations are in the same cache, so that no request reads PostgreSQL for them.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace

from pydantic import SecretStr

from authz.keys.repository import StoredKey

SIZE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """A stored key whose secret was verified, or to which an identity belongs.

    After a change of policy it is not `current` and is read again.
    """

    stored: StoredKey
    current: bool = True


class VerifiedKeyCache:
    """At most `size_max` keys and identities; the least recently used one is evicted first.

    The cache stores no key, only its digest under a secret of this process. An identity has its public key instead,
    which is longer than a digest. `changes` counts the notifications of the
    change listener. A reader of the store compares it before and after the read, so that an older read never overwrites
    a concurrent revocation.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self.changes = 0
        self._size_max = size_max
        self._pepper = secrets.token_bytes(32)
        self._by_digest: OrderedDict[bytes, VerifiedKey] = OrderedDict()

    def digest(self, key: SecretStr) -> bytes:
        """The keyed BLAKE2b (RFC 7693) of `key` under the secret of this process, cheaper than an HMAC of OpenSSL.

        `key` may be any text, also one with lone surrogates.
        """
        text = key.get_secret_value().encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._pepper, digest_size=32).digest()

    def get(self, digest: bytes) -> VerifiedKey | None:
        """The verified key, or None."""
        if digest in self._by_digest:
            self._by_digest.move_to_end(digest)
        return self._by_digest.get(digest)

    def put(self, digest: bytes, stored: StoredKey) -> None:
        """Stores a key that was just verified."""
        self._by_digest[digest] = VerifiedKey(stored)
        self._by_digest.move_to_end(digest)
        while len(self._by_digest) > self._size_max:
            self._by_digest.popitem(last=False)

    def discard(self, digest: bytes) -> None:
        """Removes a key or identity that no longer exists."""
        self._by_digest.pop(digest, None)

    def evict(self, prefix: str) -> None:
        """Removes a revoked key."""
        self.changes += 1
        for digest in [d for d, key in self._by_digest.items() if key.stored.principal.key_prefix == prefix]:
            del self._by_digest[digest]

    def outdate(self, tenant_id: int | None) -> None:
        """Marks the keys of a tenant, or all keys with None, to be read again before their next use."""
        self.changes += 1
        for digest, key in self._by_digest.items():
            if tenant_id is None or key.stored.principal.tenant_id == tenant_id:
                self._by_digest[digest] = replace(key, current=False)
