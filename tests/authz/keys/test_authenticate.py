from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from authz.keys.authenticate import Authenticator
from authz.keys.change_listener import ChangeListener
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import ApiKey, generate
from authz.keys.repository import KeyRepository
from authz.keys.verified_cache import VerifiedKeyCache
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.values import Limits
from ops.database.accounts import NewKey, TenantRepository
from ops.database.policies import PolicyChange
from tests.rows import add_key, eventually


class Door:
    """An Authenticator on a real database whose change_listener is connected, and what a test turns."""

    def __init__(self, database: Database, hasher: KeyHasher, trust_s: float = 60.0) -> None:
        self.accounts = TenantRepository(database)
        self.hasher = hasher
        self.verified = VerifiedKeyCache()
        self.now = datetime.now(UTC)
        self.monotonic_s = 0.0
        self.change_listener = ChangeListener(
            database,
            on_revoked=self.verified.evict,
            on_policy_changed=self.verified.outdate,
            on_gap=lambda _: self.verified.outdate(None),
            monotonic=lambda: self.monotonic_s,
            heartbeat_s=0.05,
        )
        self.key_repository = KeyRepository(database, Limits(60, 1000, 4))
        self.authenticator = Authenticator(
            self.key_repository,
            hasher,
            self.change_listener,
            self.verified,
            trust_s=trust_s,
            now=lambda: self.now,
        )

    async def new_key(self, tenant: str = "acme", expires_at: datetime | None = None) -> ApiKey:
        """A key that the door opens for; its tenant is made if need be."""
        key = generate()
        await add_key(self.accounts, tenant, key.prefix, key=NewKey(key.prefix, await self.hasher.hash(key.secret)),
                      expires_at=expires_at)  # fmt: skip
        return key

    async def is_open_for(self, secret: SecretStr) -> bool:
        """Whether the key opens the door; any other refusal than that of a wrong key is raised."""
        try:
            await self.authenticator.authenticate(secret)
        except Denied as denied:
            assert denied.code is Code.INVALID_API_KEY
            return False
        return True


@asynccontextmanager
async def door_at(settings: Settings) -> AsyncIterator[Door]:
    database = Database(settings)
    door = Door(database, KeyHasher.from_settings(settings))
    listening = asyncio.create_task(door.change_listener.run())
    try:
        await asyncio.wait_for(door.change_listener.wait_connected(), 10)
        yield door
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        door.hasher.close()
        await database.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url), argon2_time_cost=1, argon2_memory_cost_kib=64, argon2_parallelism=1
    )


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[Door]:
    async with door_at(settings) as door:
        await door.accounts.create_tenant("acme", PolicyChange())
        yield door


async def test_a_good_key_has_its_principal(door: Door) -> None:
    key = await door.new_key()
    principal = await door.authenticator.authenticate(key.secret)
    assert (principal.tenant, principal.key_prefix) == ("acme", key.prefix)
    assert principal.key_limits == Limits(60, 1000, 4)


async def test_nothing_else_opens_the_door(door: Door) -> None:
    key = await door.new_key()
    other = generate().secret.get_secret_value()
    for wrong in ("", "nz_", other, key.prefix + other[12:], key.secret.get_secret_value()[:-1] + "0"):
        assert not await door.is_open_for(SecretStr(wrong))
    with pytest.raises(Denied):
        await door.authenticator.authenticate(None)


async def test_a_revocation_that_is_heard_closes_the_door(door: Door) -> None:
    key = await door.new_key()
    assert await door.is_open_for(key.secret)
    await door.accounts.revoke_key(key.prefix, "test")
    await eventually(lambda: door.verified.get(door.verified.digest(key.secret)) is None)
    assert not await door.is_open_for(key.secret)


async def test_a_revocation_during_the_verification_is_not_overwritten_by_it(door: Door) -> None:
    """The key is revoked after it was read and before its hash is verified."""
    key = await door.new_key()

    @dataclass
    class RevokingHasher:
        inner: KeyHasher

        async def verify(self, stored: str | None, secret: SecretStr) -> bool:
            changes = door.verified.changes
            await door.accounts.revoke_key(key.prefix, "test")
            await eventually(lambda: door.verified.changes > changes)
            return await self.inner.verify(stored, secret)

        def needs_rehash(self, stored: str) -> bool:
            return self.inner.needs_rehash(stored)

    door.authenticator._hasher = RevokingHasher(door.hasher)  # type: ignore[assignment]
    assert not await door.is_open_for(key.secret)
    assert door.verified.get(door.verified.digest(key.secret)) is None


async def test_a_changed_policy_is_in_force_once_it_is_heard(door: Door) -> None:
    key = await door.new_key()
    assert not (await door.authenticator.authenticate(key.secret)).allow_all_models
    changes = door.verified.changes
    await door.accounts.set_tenant_enabled("acme", False)
    await eventually(lambda: door.verified.changes > changes)
    assert not await door.is_open_for(key.secret)
    changes = door.verified.changes
    await door.accounts.set_tenant_enabled("acme", True)
    await eventually(lambda: door.verified.changes > changes)
    assert await door.is_open_for(key.secret)


async def test_a_key_expires_while_it_is_in_use(door: Door) -> None:
    key = await door.new_key(expires_at=door.now + timedelta(hours=1))
    assert await door.is_open_for(key.secret)
    door.now += timedelta(hours=1)
    assert not await door.is_open_for(key.secret)


async def test_requests_that_come_at_once_with_a_new_key_verify_it_once(door: Door) -> None:
    key = await door.new_key()
    asking = [asyncio.create_task(door.authenticator.authenticate(key.secret)) for _ in range(50)]
    await asyncio.sleep(0)
    assert len(door.authenticator._verifying) == 1
    assert {(await task).key_prefix for task in asking} == {key.prefix}
    assert not door.authenticator._verifying


async def test_one_that_gives_up_does_not_take_the_others_verification_away(door: Door) -> None:
    key = await door.new_key()
    first = asyncio.create_task(door.authenticator.authenticate(key.secret))
    second = asyncio.create_task(door.authenticator.authenticate(key.secret))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).key_prefix == key.prefix


async def test_a_hash_of_other_costs_is_renewed(settings: Settings, door: Door) -> None:
    key = await door.new_key()
    dearer = settings.model_copy(update={"argon2_time_cost": 2})
    async with door_at(dearer) as later:
        assert await later.is_open_for(key.secret)
        await asyncio.gather(*later.authenticator._rehashing)
        stored = await later.key_repository.find_key(key.prefix)
        assert stored is not None
        assert not later.hasher.needs_rehash(stored.hash)
    assert await door.is_open_for(key.secret)


async def test_a_known_key_is_trusted_only_while_revocations_are_heard_of(door: Door) -> None:
    key = await door.new_key()
    assert await door.is_open_for(key.secret)
    # The clock jumps between two heartbeats, so nothing can have been heard meanwhile.
    door.monotonic_s += 61
    with pytest.raises(StoreUnavailable):
        await door.authenticator.authenticate(key.secret)
    await eventually(lambda: door.change_listener.staleness_s == 0)
    assert await door.is_open_for(key.secret)


async def test_a_database_that_is_away_says_nothing_about_a_key() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://app@127.0.0.1:1/none"), database_timeout_s=1, argon2_memory_cost_kib=64
    )
    database = Database(settings)
    door = Door(database, KeyHasher.from_settings(settings))
    with pytest.raises(StoreUnavailable):
        await door.authenticator.authenticate(generate().secret)
    door.hasher.close()


def test_the_least_recently_used_key_leaves_a_full_cache() -> None:
    keys = VerifiedKeyCache(size_max=2)
    assert keys.digest(SecretStr("a")) != VerifiedKeyCache().digest(SecretStr("a"))
    for name in (b"1", b"2"):
        keys.put(name, None)  # type: ignore[arg-type]
    keys.get(b"1")
    keys.put(b"3", None)  # type: ignore[arg-type]
    assert [keys.get(name) is not None for name in (b"1", b"2", b"3")] == [True, False, True]
