from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from authz.keys.repository import KeyRepository
from gateway.errors import Conflict, NotFound
from gateway.stores.postgres import Database
from gateway.values import Limits
from ops.database.accounts import TenantRepository
from ops.database.policies import Subject, only_models
from tests.rows import add_key, new_key

NOW = datetime.now(UTC)


@pytest.fixture
async def accounts(database: Database) -> TenantRepository:
    accounts = TenantRepository(database)
    await accounts.create_tenant("Acme", {"rpm": 10})
    return accounts


async def test_names_keep_their_case_and_are_unique_without_it(accounts: TenantRepository) -> None:
    assert [tenant.name for tenant in await accounts.tenants()] == ["Acme"]
    with pytest.raises(Conflict, match="ACME exists already"):
        await accounts.create_tenant("ACME", {})


async def test_an_unknown_tenant_is_answered_with_a_near_one(accounts: TenantRepository) -> None:
    with pytest.raises(NotFound, match=r"no tenant named acne; did you mean Acme\?"):
        await accounts.keys("acne")
    with pytest.raises(NotFound, match=r"no tenant named zzz; `list-tenants` shows those there are$"):
        await accounts.set_tenant_enabled("zzz", True)


async def test_a_tenant_is_listed_with_its_policy_and_its_usable_keys(accounts: TenantRepository) -> None:
    await add_key(accounts, name="a")
    await add_key(accounts, name="b", expires_at=NOW - timedelta(seconds=1))
    await accounts.revoke_key((await add_key(accounts, name="c")).prefix, "")
    (tenant,) = await accounts.tenants()
    assert (tenant.keys, tenant.status, tenant.policy["rpm"], tenant.policy["tpm"]) == (1, "active", 10, None)


async def test_a_live_key_of_the_same_name_is_a_conflict_until_it_is_revoked(accounts: TenantRepository) -> None:
    first = await add_key(accounts, name="CI")
    with pytest.raises(Conflict, match="key named ci already"):
        await add_key(accounts, name="ci")
    await accounts.revoke_key(first.prefix, "")
    assert (await add_key(accounts, name="ci")).status == "active"


async def test_another_tenant_may_use_the_same_key_name(accounts: TenantRepository) -> None:
    await accounts.create_tenant("other", {})
    await add_key(accounts, name="ci")
    await add_key(accounts, name="ci", tenant="OTHER")
    assert [key.tenant for key in await accounts.keys(None)] == ["Acme", "other"]
    assert len(await accounts.keys("acme")) == 1


async def test_a_scope_that_does_not_exist_is_refused_by_the_schema(accounts: TenantRepository) -> None:
    with pytest.raises(Conflict):
        await add_key(accounts, scopes=["chat", "admin"])


async def test_revoking_twice_says_so_and_records_one_revocation(
    accounts: TenantRepository, database: Database
) -> None:
    key = await add_key(accounts)
    assert await accounts.revoke_key(key.prefix, "lost laptop")
    assert not await accounts.revoke_key(key.prefix, "again")
    rows = await database.fetch("SELECT prefix, key_id, reason FROM gateway.revocations")
    assert [tuple(row) for row in rows] == [(key.prefix, key.id, "lost laptop")]
    assert [k.status for k in await accounts.keys(None)] == ["revoked"]


async def test_an_unknown_prefix_is_not_found(accounts: TenantRepository) -> None:
    for attempt in (
        accounts.revoke_key("nz_000000000", ""),
        accounts.rotate_key("nz_000000000", new_key(), timedelta()),
        accounts.change_policy(Subject("key", "nz_000000000"), {"rpm": 1}),
    ):
        with pytest.raises(NotFound, match="nz_000000000"):
            await attempt


async def test_rotation_makes_a_successor_and_lets_the_old_key_run_out(
    accounts: TenantRepository, database: Database
) -> None:
    expires = NOW + timedelta(days=10)
    old = await add_key(
        accounts, scopes=["chat"], expires_at=expires, log_prompts=True, policy={"rpm": 3, **only_models(["a:x"])}
    )
    new, replaced = await accounts.rotate_key(old.prefix, new_key(), timedelta(hours=1))
    assert (new.name, new.scopes, new.expires_at, new.log_prompts) == (old.name, old.scopes, expires, True)
    assert new.prefix != old.prefix
    assert replaced.status == "active"
    assert replaced.expires_at is not None
    assert NOW < replaced.expires_at < NOW + timedelta(hours=2)
    directory = KeyRepository(database, Limits(1, 1, 1))
    stored = await directory.find_key(new.prefix)
    assert stored is not None
    assert (stored.principal.key_limits.rpm, stored.principal.models) == (3, frozenset({"a:x"}))


async def test_rotation_never_lengthens_the_life_of_the_old_key(accounts: TenantRepository) -> None:
    expires = NOW + timedelta(hours=5)
    old = await add_key(accounts, expires_at=expires)
    _, replaced = await accounts.rotate_key(old.prefix, new_key(), timedelta(days=1))
    assert replaced.expires_at == expires


async def test_rotation_without_grace_revokes_the_old_key(accounts: TenantRepository, database: Database) -> None:
    old = await add_key(accounts)
    _, replaced = await accounts.rotate_key(old.prefix, new_key(), timedelta())
    assert replaced.status == "revoked"
    assert await database.fetchval("SELECT prefix FROM gateway.revocations") == old.prefix


async def test_a_key_is_rotated_once_and_its_successor_again(accounts: TenantRepository) -> None:
    old = await add_key(accounts)
    new, _ = await accounts.rotate_key(old.prefix, new_key(), timedelta(hours=1))
    with pytest.raises(Conflict, match="replaced already"):
        await accounts.rotate_key(old.prefix, new_key(), timedelta(hours=1))
    newer, _ = await accounts.rotate_key(new.prefix, new_key(), timedelta(hours=1))
    assert [key.prefix for key in await accounts.keys(None)] == [old.prefix, new.prefix, newer.prefix]


@pytest.mark.parametrize("state", ["revoked", "expired"])
async def test_a_dead_key_is_not_rotated(accounts: TenantRepository, state: str) -> None:
    key = await add_key(accounts, expires_at=NOW - timedelta(seconds=1) if state == "expired" else None)
    if state == "revoked":
        await accounts.revoke_key(key.prefix, "")
    with pytest.raises(Conflict, match="create a new one"):
        await accounts.rotate_key(key.prefix, new_key(), timedelta(hours=1))


async def test_a_policy_changes_only_where_it_is_told_to(accounts: TenantRepository) -> None:
    tenant = Subject("tenant", "ACME")
    await accounts.change_policy(tenant, {"tpm": 5, "budget_day": 0})
    policy = await accounts.change_policy(tenant, {"tpm": None, "budget_total": 9})
    assert (policy["rpm"], policy["tpm"], policy["budget_day"], policy["budget_total"]) == (10, None, 0, 9)


async def test_a_change_of_nothing_shows_what_is_stored(accounts: TenantRepository) -> None:
    key = await add_key(accounts)
    assert (await accounts.change_policy(Subject("key", key.prefix), {}))["rpm"] is None


@pytest.mark.parametrize("change", [{"rpm": 0}, {"tpm": -1}, {"concurrent": 0}, {"budget_month": -1}])
async def test_a_limit_that_makes_no_sense_is_refused_by_the_schema(
    accounts: TenantRepository, change: dict[str, int]
) -> None:
    with pytest.raises(Conflict):
        await accounts.change_policy(Subject("tenant", "acme"), change)  # type: ignore[arg-type]
