from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from authz.keys.last_used import LastUsed
from authz.keys.repository import KeyRepository
from gateway.stores.postgres import Database
from gateway.values import Budgets, Limits, Principal, Priority
from ops.database.policies import PolicyChange, allow_only
from ops.database.tenants import TenantRepository
from tests.row_builders import HASH, add_key

DEFAULTS = Limits(rpm=60, tpm=100_000, concurrent=8)
NOW = datetime.now(UTC)


@pytest.fixture
def tenants(database: Database) -> TenantRepository:
    return TenantRepository(database)


@pytest.fixture
def key_repository(service_database: Database) -> KeyRepository:
    return KeyRepository(service_database, DEFAULTS)


async def _principal(
    tenants: TenantRepository, key_repository: KeyRepository, tenant: PolicyChange, key: PolicyChange
) -> Principal:
    await tenants.create_tenant("Acme", tenant)
    stored = await key_repository.find_key((await add_key(tenants, policy=key)).prefix)
    assert stored is not None
    return stored.principal


async def test_an_unknown_prefix_is_none(key_repository: KeyRepository) -> None:
    assert await key_repository.find_key("nz_000000000") is None


async def test_without_a_policy_everything_is_the_default_and_no_model_is_allowed(
    tenants: TenantRepository, key_repository: KeyRepository
) -> None:
    principal = await _principal(tenants, key_repository, {}, {})
    assert principal.tenant == "Acme"
    assert principal.tenant_limits == principal.key_limits == DEFAULTS
    assert principal.tenant_budgets == principal.key_budgets == Budgets()
    assert principal.models == frozenset()
    assert not principal.allow_all_models
    assert principal.scopes == {"chat", "embeddings"}


async def test_each_limit_inherits_on_its_own_from_key_to_tenant_to_default(
    tenants: TenantRepository, key_repository: KeyRepository
) -> None:
    principal = await _principal(tenants, key_repository, {"rpm": 10, "tpm": 500}, {"rpm": 3})
    assert principal.tenant_limits == Limits(rpm=10, tpm=500, concurrent=8)
    assert principal.key_limits == Limits(rpm=3, tpm=500, concurrent=8)


async def test_budgets_of_tenant_and_key_stand_side_by_side_and_zero_is_a_budget(
    tenants: TenantRepository, key_repository: KeyRepository
) -> None:
    principal = await _principal(tenants, key_repository, {"budget_day": 100}, {"budget_total": 0})
    assert principal.tenant_budgets == Budgets(day=100)
    assert principal.key_budgets == Budgets(total=0)


@pytest.mark.parametrize(
    ("tenant", "key", "allow_all", "models"),
    [
        ({"allowed_models": ["a:x"]}, {}, False, {"a:x"}),
        ({"allow_all_models": True}, {}, True, set()),
        ({"allow_all_models": True}, allow_only(["a:x"]), False, {"a:x"}),
        ({"allow_all_models": True}, {"allowed_models": ["a:x"]}, False, {"a:x"}),
        ({"allow_all_models": True}, {"allow_all_models": False}, False, set()),
        ({"allowed_models": ["a:x"]}, {"allow_all_models": True}, True, {"a:x"}),
        ({"allowed_models": ["a:x"]}, {"allowed_models": []}, False, set()),
    ],
)
async def test_models_of_the_key_win_and_a_list_of_its_own_ends_allow_all(
    tenants: TenantRepository,
    key_repository: KeyRepository,
    tenant: PolicyChange,
    key: PolicyChange,
    allow_all: bool,
    models: set[str],
) -> None:
    principal = await _principal(tenants, key_repository, tenant, key)
    assert (principal.allow_all_models, set(principal.models)) == (allow_all, models)


async def test_a_revoked_expired_or_disabled_key_is_found_but_not_usable(
    tenants: TenantRepository, key_repository: KeyRepository
) -> None:
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants, expires_at=NOW + timedelta(hours=1))

    async def usable(now: datetime = NOW) -> bool:
        stored = await key_repository.find_key(key.prefix)
        assert stored is not None
        return stored.is_usable(now)

    assert await usable()
    assert not await usable(NOW + timedelta(hours=1))
    await tenants.set_tenant_enabled("ACME", False)
    assert not await usable()
    await tenants.set_tenant_enabled("acme", True)
    assert await usable()
    await tenants.revoke_key(key.prefix, "")
    assert not await usable()


async def test_touch_notes_the_use_and_leaves_rows_that_another_worker_has_locked(
    tenants: TenantRepository, key_repository: KeyRepository, database: Database, database_url: str
) -> None:
    await tenants.create_tenant("acme", {})
    locked, free = await add_key(tenants, name="a"), await add_key(tenants, name="b")
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("UPDATE gateway.api_keys SET last_used_at = NULL WHERE id = $1", locked.id)
        await key_repository.touch({locked.prefix, free.prefix}, timedelta(minutes=1))
    await other.close()
    used = {key.name: key.last_used_at for key in await tenants.list_keys(None)}
    assert used["a"] is None
    assert used["b"] is not None


async def test_a_second_worker_writes_no_use_within_the_minute(
    tenants: TenantRepository, key_repository: KeyRepository, database: Database
) -> None:
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants)
    first, second = LastUsed(key_repository), LastUsed(key_repository)

    async def row_version(worker: LastUsed) -> tuple[str, datetime]:
        worker.note(key.prefix)
        await worker.flush()
        row = await database.fetchrow("SELECT xmin::text AS version, last_used_at FROM gateway.api_keys")
        assert row is not None
        return row["version"], row["last_used_at"]

    written = await row_version(first)
    assert written[1] is not None
    assert await row_version(second) == await row_version(first) == written
    await database.execute("UPDATE gateway.api_keys SET last_used_at = now() - interval '61 seconds'")
    assert (await row_version(second))[1] > written[1]


async def test_a_rehash_replaces_only_the_hash_it_was_made_from(
    tenants: TenantRepository, key_repository: KeyRepository, database: Database
) -> None:
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants)
    new = HASH.replace("t=1", "t=2")
    await key_repository.store_hash(key.prefix, "$argon2id$other", new)
    assert await database.fetchval("SELECT hash FROM gateway.api_keys") == HASH
    await key_repository.store_hash(key.prefix, HASH, new)
    stored = await key_repository.find_key(key.prefix)
    assert stored is not None
    assert stored.hash == new


async def test_revoked_since_lists_what_was_revoked_from_then_on(
    tenants: TenantRepository, key_repository: KeyRepository
) -> None:
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants)
    await tenants.revoke_key(key.prefix, "")
    assert await key_repository.revoked_since(NOW - timedelta(minutes=1)) == [key.prefix]
    assert await key_repository.revoked_since(NOW + timedelta(hours=1)) == []


async def test_weight_and_priority_are_the_stored_ones(
    tenants: TenantRepository, key_repository: KeyRepository
) -> None:
    await tenants.create_tenant("Acme", {"weight": 3})
    keys = [await add_key(tenants, name=priority, priority=priority) for priority in Priority]
    found = [await key_repository.find_key(key.prefix) for key in keys]
    assert [(each.principal.weight, each.principal.priority) for each in found if each] == [
        (3, Priority.INTERACTIVE),
        (3, Priority.BATCH),
    ]
