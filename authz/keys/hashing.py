"""Argon2id for API keys. No other module imports argon2.

Hashing is slow on purpose, so it runs in a small thread pool with a bounded queue. A flood of unknown keys is denied
instead of blocking the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError
from pydantic import SecretStr

from authz.metrics import ARGON2_PENDING, ARGON2_REJECTED, ARGON2_SECONDS
from gateway.errors import StoreUnavailable
from gateway.settings import Settings

T = TypeVar("T")

THREADS = 2
WAITERS_MAX = 64
# nice(2) increment of the hashing threads, which the lanes of Argon2 inherit. It is small, because the first use of a
# key must not starve next to a model that uses all cores.
HASHING_NICE = 5


class KeyHasher:
    """Hashes and verifies whole keys, for all tasks of one event loop. Close it at the end."""

    def __init__(
        self,
        *,
        time_cost: int,
        memory_cost_kib: int,
        parallelism: int,
        threads: int = THREADS,
        waiters_max: int = WAITERS_MAX,
    ) -> None:
        self._argon2 = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost_kib, parallelism=parallelism, type=Type.ID
        )
        self._unmatchable = _unmatchable(self._argon2)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2", initializer=_lower_priority)
        self._slots = BoundedSemaphore(threads + waiters_max)

    @classmethod
    def from_settings(cls, settings: Settings) -> KeyHasher:
        """With the ARGON2_* costs of the settings."""
        return cls(
            time_cost=settings.argon2_time_cost,
            memory_cost_kib=settings.argon2_memory_cost_kib,
            parallelism=settings.argon2_parallelism,
        )

    async def hash(self, key: SecretStr) -> str:
        """The encoded hash to store. Raises StoreUnavailable when too many callers wait or memory is short."""
        return await self._run(lambda: self._argon2.hash(key.get_secret_value()))

    async def verify(self, stored: str | None, key: SecretStr) -> bool:
        """Whether `key` is the one that `stored` was made from.

        With None, for an unknown prefix, the same work is done and the result is False. Raises StoreUnavailable when
        too many callers wait, and when the hash cannot be computed.
        """
        return await self._run(lambda: self._verify(stored or self._unmatchable, key.get_secret_value()))

    def needs_rehash(self, stored: str) -> bool:
        """Whether `stored` was made with other costs than the current ones."""
        return self._argon2.check_needs_rehash(stored)

    def close(self) -> None:
        """Lets running work finish and cancels waiting work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str, key: str) -> bool:
        try:
            return self._argon2.verify(stored, key)
        except VerifyMismatchError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._slots.acquire(blocking=False):
            ARGON2_REJECTED.inc()
            raise StoreUnavailable("too many keys wait to be verified")
        started_s = time.perf_counter()
        try:
            future = self._pool.submit(work)
        except RuntimeError:
            self._slots.release()
            raise StoreUnavailable("the key hasher is closed") from None
        ARGON2_PENDING.inc()
        # The slot is released when the thread is done, not when its caller stops waiting.
        future.add_done_callback(self._release)
        try:
            result = await asyncio.wrap_future(future)
        except (HashingError, InvalidHashError, VerificationError) as error:
            raise StoreUnavailable(f"a key could not be hashed: {type(error).__name__}") from None
        ARGON2_SECONDS.observe(time.perf_counter() - started_s)
        return result

    def _release(self, _: Future[T]) -> None:
        ARGON2_PENDING.dec()
        self._slots.release()


def _lower_priority() -> None:
    """Lowers the priority of this thread: verifying unknown keys must not slow down requests with known ones.

    Linux only; elsewhere nice(2) applies to the whole process.
    """
    if sys.platform == "linux":
        os.nice(HASHING_NICE)


def _unmatchable(argon2: PasswordHasher) -> str:
    """A hash with the costs of `argon2` and a random digest, which no key matches."""
    salt, digest = (base64.b64encode(os.urandom(n)).rstrip(b"=").decode() for n in (argon2.salt_len, argon2.hash_len))
    costs = f"m={argon2.memory_cost},t={argon2.time_cost},p={argon2.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"
