from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from authz.keys.authenticate import Authenticator
from authz.keys.change_listener import ChangeListener
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import ApiKey, check_digits, generate
from authz.keys.refusal import KeyRefused
from authz.keys.repository import KeyRepository
from authz.keys.signed_request import SignedRequest, parse_signed_request
from authz.keys.verified_cache import VerifiedKeyCache
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.values import Limits, Principal
from ops.database.identities import add_identity, remove_identity
from ops.database.policies import PolicyChange
from ops.database.tenants import NewKey, TenantRepository
from tests.polling import eventually_async
from tests.row_builders import add_key
from tests.ssh_identity import OllamaIdentity


class Bench:
    """An Authenticator on a real database with a connected change listener, and clocks that a test sets."""

    def __init__(self, database: Database, hasher: KeyHasher, trust_s: float = 60.0) -> None:
        self.database = database
        self.tenants = TenantRepository(database)
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
        self.trust_s = trust_s
        self.authenticator = self.authenticator_with(hasher)

    def authenticator_with(self, hasher: KeyHasher) -> Authenticator:
        """An Authenticator on the same database and cache with another hasher."""
        return Authenticator(
            self.key_repository,
            hasher,
            self.change_listener,
            self.verified,
            trust_s=self.trust_s,
            identity_window_s=60.0,
            now=lambda: self.now,
        )

    async def new_key(self, tenant: str = "acme", expires_at: datetime | None = None) -> ApiKey:
        """A valid key; its tenant is created if it does not exist."""
        key = generate()
        await add_key(self.tenants, tenant, key.prefix, key=NewKey(key.prefix, await self.hasher.hash(key.secret)),
                      expires_at=expires_at)  # fmt: skip
        return key

    async def new_identity(self, prefix: str) -> OllamaIdentity:
        """A new identity of the key with this prefix."""
        identity = OllamaIdentity()
        await add_identity(self.database, prefix, identity.public)
        return identity

    def signed(self, identity: OllamaIdentity, *, path: str = "/api/chat", late_s: float = 0.0) -> SignedRequest:
        """A request that `identity` signed, and that arrives `late_s` afterwards."""
        at_s = int(self.now.timestamp())
        target, authorization = identity.signed("POST", "/api/chat", at_s)
        received = parse_signed_request(authorization, "POST", target.replace("/api/chat", path), at_s + late_s)
        assert received is not None
        return received

    async def refusal(self, credential: SecretStr | SignedRequest) -> str | None:
        """Why a credential is refused; None if it is accepted."""
        try:
            await self.authenticate(credential)
        except KeyRefused as refused:
            return refused.reason
        return None

    async def authenticate(self, secret: SecretStr | SignedRequest | None) -> Principal:
        """The principal of a credential."""
        return await self.authenticator.authenticate(self.authenticator.look_up(secret))

    async def accepts(self, secret: SecretStr) -> bool:
        """Whether the key is valid; any denial but invalid_api_key is raised."""
        try:
            await self.authenticate(secret)
        except Denied as denied:
            assert denied.code is Code.INVALID_API_KEY
            return False
        return True


@asynccontextmanager
async def bench_at(settings: Settings) -> AsyncIterator[Bench]:
    database = Database(settings)
    bench = Bench(database, KeyHasher.from_settings(settings))
    listening = asyncio.create_task(bench.change_listener.run())
    try:
        await asyncio.wait_for(bench.change_listener.wait_connected(), 10)
        yield bench
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        bench.hasher.close()
        await database.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url), argon2_time_cost=1, argon2_memory_cost_kib=64, argon2_parallelism=1
    )


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    async with bench_at(settings) as bench:
        await bench.tenants.create_tenant("acme", PolicyChange())
        yield bench


async def test_a_good_key_has_its_principal(bench: Bench) -> None:
    key = await bench.new_key()
    principal = await bench.authenticate(key.secret)
    assert (principal.tenant, principal.key_prefix) == ("acme", key.prefix)
    assert principal.key_limits == Limits(60, 1000, 4)


async def test_any_other_key_is_denied(bench: Bench) -> None:
    key = await bench.new_key()
    other, whole = generate().secret.get_secret_value(), key.secret.get_secret_value()
    mistyped = whole[:-1] + ("0" if whole[-1] != "0" else "1")
    for wrong in ("", "nz_", other, key.prefix + other[12:], mistyped):
        assert not await bench.accepts(SecretStr(wrong))
    with pytest.raises(Denied):
        await bench.authenticate(None)


async def test_a_refusal_has_its_reason_and_names_the_owner_only_of_a_matching_secret(bench: Bench) -> None:
    valid, revoked = await bench.new_key(), await bench.new_key()
    expired = await bench.new_key(expires_at=bench.now)
    await bench.tenants.create_tenant("closed", PolicyChange())
    closed = await bench.new_key("closed")
    await bench.tenants.set_tenant_enabled("closed", False)
    await bench.tenants.revoke_key(revoked.prefix, "test")
    body = valid.prefix + generate().secret.get_secret_value()[12:-6]
    cases = {
        body + check_digits(body): ("wrong_secret", None),
        generate().secret.get_secret_value(): ("unknown", None),
        valid.secret.get_secret_value()[:-1] + "-": ("malformed", None),
        revoked.secret.get_secret_value(): ("revoked", revoked.prefix),
        expired.secret.get_secret_value(): ("expired", expired.prefix),
        closed.secret.get_secret_value(): ("tenant_disabled", closed.prefix),
    }
    for secret, expected in cases.items():
        with pytest.raises(KeyRefused) as refused:
            await bench.authenticate(SecretStr(secret))
        owner = refused.value.owner
        assert (refused.value.reason, owner and owner.key_prefix) == expected


async def test_a_key_is_denied_once_its_revocation_is_notified(bench: Bench) -> None:
    key = await bench.new_key()
    assert await bench.accepts(key.secret)
    await bench.tenants.revoke_key(key.prefix, "test")
    await eventually_async(lambda: bench.verified.get(bench.verified.digest(key.secret)) is None)
    assert not await bench.accepts(key.secret)


async def test_a_revocation_during_the_verification_is_not_overwritten_by_it(bench: Bench) -> None:
    """The key is revoked after it was read and before its hash is verified."""
    key = await bench.new_key()

    class RevokingHasher(KeyHasher):
        async def verify(self, stored: str | None, secret: SecretStr) -> bool:
            changes = bench.verified.changes
            await bench.tenants.revoke_key(key.prefix, "test")
            await eventually_async(lambda: bench.verified.changes > changes)
            return await super().verify(stored, secret)

    hasher = RevokingHasher(time_cost=1, memory_cost_kib=64, parallelism=1)
    bench.authenticator = bench.authenticator_with(hasher)
    assert not await bench.accepts(key.secret)
    hasher.close()
    assert bench.verified.get(bench.verified.digest(key.secret)) is None


async def test_a_changed_policy_applies_once_it_is_notified(bench: Bench) -> None:
    key = await bench.new_key()
    assert not (await bench.authenticate(key.secret)).allow_all_models
    changes = bench.verified.changes
    await bench.tenants.set_tenant_enabled("acme", False)
    await eventually_async(lambda: bench.verified.changes > changes)
    assert not await bench.accepts(key.secret)
    changes = bench.verified.changes
    await bench.tenants.set_tenant_enabled("acme", True)
    await eventually_async(lambda: bench.verified.changes > changes)
    assert await bench.accepts(key.secret)


async def test_a_key_expires_while_it_is_in_use(bench: Bench) -> None:
    key = await bench.new_key(expires_at=bench.now + timedelta(hours=1))
    assert await bench.accepts(key.secret)
    bench.now += timedelta(hours=1)
    assert not await bench.accepts(key.secret)


async def test_concurrent_requests_with_a_new_key_verify_it_once(bench: Bench) -> None:
    key = await bench.new_key()
    tasks = [asyncio.create_task(bench.authenticate(key.secret)) for _ in range(50)]
    await asyncio.sleep(0)
    assert bench.authenticator.pending == 1
    assert {(await task).key_prefix for task in tasks} == {key.prefix}
    assert bench.authenticator.pending == 0


async def test_a_caller_that_gives_up_does_not_cancel_the_verification_of_the_others(bench: Bench) -> None:
    key = await bench.new_key()
    first = asyncio.create_task(bench.authenticate(key.secret))
    second = asyncio.create_task(bench.authenticate(key.secret))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).key_prefix == key.prefix


async def test_a_hash_of_other_costs_is_renewed(settings: Settings, bench: Bench) -> None:
    key = await bench.new_key()
    dearer = settings.model_copy(update={"argon2_time_cost": 2})
    async with bench_at(dearer) as later:
        assert await later.accepts(key.secret)
        await eventually_async(lambda: later.authenticator.pending == 0)
        stored = await later.key_repository.find_key(key.prefix)
        assert stored is not None
        assert not later.hasher.needs_rehash(stored.hash)
    assert await bench.accepts(key.secret)


async def test_a_verified_key_is_trusted_only_while_revocations_are_received(bench: Bench) -> None:
    key = await bench.new_key()
    assert await bench.accepts(key.secret)
    # The clock jumps between two heartbeats, so no notification can have arrived meanwhile.
    bench.monotonic_s += 61
    with pytest.raises(StoreUnavailable):
        await bench.authenticate(key.secret)
    await eventually_async(lambda: bench.change_listener.staleness_s == 0)
    assert await bench.accepts(key.secret)


async def test_an_unavailable_database_is_no_statement_about_a_key() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://app@127.0.0.1:1/none"), database_timeout_s=1, argon2_memory_cost_kib=64
    )
    database = Database(settings)
    bench = Bench(database, KeyHasher.from_settings(settings))
    with pytest.raises(StoreUnavailable):
        await bench.authenticate(generate().secret)
    bench.hasher.close()


def test_a_full_cache_evicts_the_least_recently_used_key() -> None:
    keys = VerifiedKeyCache(size_max=2)
    assert keys.digest(SecretStr("a")) != VerifiedKeyCache().digest(SecretStr("a"))
    for name in (b"1", b"2"):
        keys.put(name, None)  # type: ignore[arg-type]
    keys.get(b"1")
    keys.put(b"3", None)  # type: ignore[arg-type]
    assert [keys.get(name) is not None for name in (b"1", b"2", b"3")] == [True, False, True]


async def test_an_identity_has_the_principal_of_its_key_and_its_signatures_are_verified_each_time(bench: Bench) -> None:
    key = await bench.new_key()
    identity = await bench.new_identity(key.prefix)
    principal = await bench.authenticate(key.secret)
    for _ in range(2):
        # The second one finds the identity in the cache.
        assert await bench.authenticate(bench.signed(identity)) == principal
        assert await bench.refusal(bench.signed(identity, path="/api/generate")) == "wrong_signature"
        assert await bench.refusal(bench.signed(identity, late_s=61)) == "outside_window"
        assert await bench.refusal(bench.signed(identity, late_s=-61)) == "outside_window"
    assert await bench.refusal(bench.signed(OllamaIdentity())) == "unknown"


async def test_only_a_good_signature_of_a_known_identity_skips_the_throttle(bench: Bench) -> None:
    identity = await bench.new_identity((await bench.new_key()).prefix)
    assert bench.authenticator.look_up(bench.signed(identity)).verified is None
    await bench.authenticate(bench.signed(identity))
    assert bench.authenticator.look_up(bench.signed(identity)).verified is not None
    assert bench.authenticator.look_up(bench.signed(identity, path="/api/generate")).verified is None
    assert bench.authenticator.look_up(bench.signed(identity, late_s=61)).verified is None


async def test_a_removed_identity_is_refused_once_it_is_notified_and_then_throttled(bench: Bench) -> None:
    key = await bench.new_key()
    identity, other = await bench.new_identity(key.prefix), await bench.new_identity(key.prefix)
    for each in (identity, other):
        assert await bench.refusal(bench.signed(each)) is None
    await remove_identity(bench.database, key.prefix, identity.public)

    async def is_refused() -> bool:
        return await bench.refusal(bench.signed(identity)) == "unknown"

    await eventually_async(is_refused)
    assert bench.authenticator.look_up(bench.signed(identity)).verified is None
    assert await bench.refusal(bench.signed(other)) is None
    assert await bench.accepts(key.secret)


async def test_an_identity_follows_the_current_key_of_its_account(bench: Bench) -> None:
    key = await bench.new_key()
    identity = await bench.new_identity(key.prefix)
    assert (await bench.authenticate(bench.signed(identity))).key_prefix == key.prefix
    new = generate()
    stored = NewKey(new.prefix, await bench.hasher.hash(new.secret))
    await bench.tenants.rotate_key(key.prefix, stored, timedelta(hours=1))

    async def is_the_new_key() -> bool:
        return (await bench.authenticate(bench.signed(identity))).key_prefix == new.prefix

    await eventually_async(is_the_new_key)
    await bench.tenants.revoke_key(new.prefix, "test")

    async def is_revoked() -> bool:
        return await bench.refusal(bench.signed(identity)) == "revoked"

    await eventually_async(is_revoked)


async def test_an_identity_is_trusted_only_while_revocations_are_received(bench: Bench) -> None:
    identity = await bench.new_identity((await bench.new_key()).prefix)
    await bench.authenticate(bench.signed(identity))
    bench.monotonic_s += 61
    with pytest.raises(StoreUnavailable):
        await bench.authenticate(bench.signed(identity))
