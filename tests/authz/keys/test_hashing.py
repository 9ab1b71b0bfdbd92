from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher, extract_parameters
from pydantic import SecretStr

from authz.keys.hashing import HASHING_NICE, KeyHasher
from authz.keys.key_format import generate
from gateway.errors import StoreUnavailable


@pytest.fixture
def hasher() -> Iterator[KeyHasher]:
    hasher = KeyHasher(time_cost=1, memory_cost_kib=64, parallelism=1)
    yield hasher
    hasher.close()


async def test_a_key_verifies_against_its_own_hash_only(hasher: KeyHasher) -> None:
    key, other = generate().secret, generate().secret
    stored = await hasher.hash(key)
    assert stored.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert await hasher.verify(stored, key)
    assert not await hasher.verify(stored, other)


async def test_an_unknown_prefix_costs_the_same_work_and_is_refused(
    hasher: KeyHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_on = []
    verify = PasswordHasher.verify

    def noting(self: PasswordHasher, stored: str, password: str) -> bool:
        worked_on.append(extract_parameters(stored))
        return verify(self, stored, password)

    key = generate().secret
    stored = await hasher.hash(key)
    monkeypatch.setattr(PasswordHasher, "verify", noting)
    assert await hasher.verify(stored, key)
    assert not await hasher.verify(None, key)
    known, unknown = worked_on
    assert unknown == known


async def test_a_hash_with_other_costs_verifies_and_needs_a_rehash(hasher: KeyHasher) -> None:
    key = generate().secret
    cheaper = KeyHasher(time_cost=1, memory_cost_kib=32, parallelism=1)
    stored = await cheaper.hash(key)
    cheaper.close()
    assert await hasher.verify(stored, key)
    assert hasher.needs_rehash(stored)
    assert not hasher.needs_rehash(await hasher.hash(key))


async def test_callers_beyond_the_queue_are_refused_until_it_has_capacity_again() -> None:
    hasher = KeyHasher(time_cost=1, memory_cost_kib=64, parallelism=1, threads=1, waiters_max=2)
    key = generate().secret
    stored = await hasher.hash(key)
    results = await asyncio.gather(*(hasher.verify(stored, key) for _ in range(10)), return_exceptions=True)
    assert [r for r in results if r is True] == [True] * 3
    assert sum(isinstance(r, StoreUnavailable) for r in results) == 7
    assert await hasher.verify(stored, key)
    hasher.close()


async def test_a_caller_that_gives_up_keeps_its_place_until_the_work_is_done() -> None:
    # Long enough to be still running when this thread continues on a busy machine.
    hasher = KeyHasher(time_cost=300, memory_cost_kib=8192, parallelism=1, threads=1, waiters_max=0)
    key = generate().secret
    work = asyncio.create_task(hasher.hash(key))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    with pytest.raises(StoreUnavailable):
        await hasher.hash(key)
    hasher.close()


async def test_an_invalid_stored_hash_is_a_failed_dependency_not_a_wrong_key(hasher: KeyHasher) -> None:
    with pytest.raises(StoreUnavailable):
        await hasher.verify("$argon2id$broken", generate().secret)


async def test_a_closed_hasher_is_unavailable(hasher: KeyHasher) -> None:
    hasher.close()
    with pytest.raises(StoreUnavailable):
        await hasher.hash(SecretStr("x"))


async def test_hashing_threads_have_a_lower_priority(hasher: KeyHasher) -> None:
    before = {thread.native_id for thread in threading.enumerate()}
    await hasher.hash(generate().secret)
    (worker,) = {thread.native_id for thread in threading.enumerate()} - before
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert worker is not None
    assert os.getpriority(os.PRIO_PROCESS, worker) - own == (HASHING_NICE if sys.platform == "linux" else 0)
