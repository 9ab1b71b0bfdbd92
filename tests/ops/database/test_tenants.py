from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from authz.keys.repository import KeyRepository
from gateway.errors import Conflict, NotFound
from gateway.stores.postgres import Database
from gateway.values import Limits
from ops.database.policies import PolicyChange, PolicySubject, allow_only
from ops.database.tenants import TenantRepository
from tests.row_builders import add_key, new_key

NOW = datetime.now(UTC)


@pytest.fixture
async def tenants(database: Database) -> TenantRepository:
    tenants = TenantRepository(database)
    await tenants.create_tenant("Acme", {"rpm": 10})
    return tenants


async def test_names_keep_their_case_and_are_unique_without_it(tenants: TenantRepository) -> None:
    assert [tenant.name for tenant in await tenants.list_tenants()] == ["Acme"]
    with pytest.raises(Conflict, match="ACME exists already"):
        await tenants.create_tenant("ACME", {})


async def test_the_error_for_an_unknown_tenant_suggests_a_similar_name(tenants: TenantRepository) -> None:
    with pytest.raises(NotFound, match=r"no tenant named acne; did you mean Acme\?"):
        await tenants.list_keys("acne")
    with pytest.raises(NotFound, match=r"no tenant named zzz; `list-tenants` shows the existing tenants$"):
        await tenants.set_tenant_enabled("zzz", True)


async def test_a_tenant_is_listed_with_its_policy_and_its_usable_keys(tenants: TenantRepository) -> None:
    await add_key(tenants, name="a")
    await add_key(tenants, name="b", expires_at=NOW - timedelta(seconds=1))
    await tenants.revoke_key((await add_key(tenants, name="c")).prefix, "")
    (tenant,) = await tenants.list_tenants()
    assert (tenant.keys, tenant.status, tenant.policy["rpm"], tenant.policy["tpm"]) == (1, "active", 10, None)


async def test_an_active_key_of_the_same_name_is_a_conflict_until_it_is_revoked(tenants: TenantRepository) -> None:
    first = await add_key(tenants, name="CI")
    with pytest.raises(Conflict, match="key named ci already"):
        await add_key(tenants, name="ci")
    await tenants.revoke_key(first.prefix, "")
    assert (await add_key(tenants, name="ci")).status == "active"


async def test_another_tenant_may_use_the_same_key_name(tenants: TenantRepository) -> None:
    await tenants.create_tenant("other", {})
    await add_key(tenants, name="ci")
    await add_key(tenants, name="ci", tenant="OTHER")
    assert [key.tenant for key in await tenants.list_keys(None)] == ["Acme", "other"]
    assert len(await tenants.list_keys("acme")) == 1


async def test_the_schema_refuses_an_unknown_scope(tenants: TenantRepository) -> None:
    with pytest.raises(Conflict):
        await add_key(tenants, scopes=["chat", "admin"])


async def test_a_second_revocation_returns_false_and_is_not_recorded(
    tenants: TenantRepository, database: Database
) -> None:
    key = await add_key(tenants)
    assert await tenants.revoke_key(key.prefix, "lost laptop")
    assert not await tenants.revoke_key(key.prefix, "again")
    rows = await database.fetch("SELECT prefix, key_id, reason FROM gateway.revocations")
    assert [tuple(row) for row in rows] == [(key.prefix, key.id, "lost laptop")]
    assert [k.status for k in await tenants.list_keys(None)] == ["revoked"]


async def test_an_unknown_prefix_is_not_found(tenants: TenantRepository) -> None:
    for attempt in (
        tenants.revoke_key("nz_000000000", ""),
        tenants.rotate_key("nz_000000000", new_key(), timedelta()),
        tenants.change_policy(PolicySubject("key", "nz_000000000"), {"rpm": 1}),
    ):
        with pytest.raises(NotFound, match="nz_000000000"):
            await attempt


async def test_rotation_creates_a_successor_and_lets_the_old_key_expire(
    tenants: TenantRepository, database: Database
) -> None:
    expires = NOW + timedelta(days=10)
    old = await add_key(
        tenants, scopes=["chat"], expires_at=expires, log_prompts=True, policy={"rpm": 3, **allow_only(["a:x"])}
    )
    new, replaced = await tenants.rotate_key(old.prefix, new_key(), timedelta(hours=1))
    assert (new.name, new.scopes, new.expires_at, new.log_prompts) == (old.name, old.scopes, expires, True)
    assert new.prefix != old.prefix
    assert replaced.status == "active"
    assert replaced.expires_at is not None
    assert NOW < replaced.expires_at < NOW + timedelta(hours=2)
    directory = KeyRepository(database, Limits(1, 1, 1))
    stored = await directory.find_key(new.prefix)
    assert stored is not None
    assert (stored.principal.key_limits.rpm, stored.principal.models) == (3, frozenset({"a:x"}))


async def test_every_key_that_rotation_makes_draws_on_the_account_of_the_first(
    tenants: TenantRepository, database: Database
) -> None:
    first = await add_key(tenants, policy={"budget_total": 100})
    second, _ = await tenants.rotate_key(first.prefix, new_key(), timedelta(hours=1))
    third, _ = await tenants.rotate_key(second.prefix, new_key(), timedelta(hours=1))
    other = await add_key(tenants, name="other")
    directory = KeyRepository(database, Limits(1, 1, 1))

    async def accounts() -> list[tuple[int, int | None]]:
        stored = [await directory.find_key(key.prefix) for key in (first, second, third)]
        return [(each.principal.key_id, each.principal.key_budgets.total) for each in stored if each]

    assert await accounts() == [(first.id, 100)] * 3
    for prefix, total in ((first.prefix, 200), (third.prefix, 300)):
        await tenants.change_policy(PolicySubject("key", prefix), {"budget_total": total})
        assert await accounts() == [(first.id, total)] * 3
    await tenants.revoke_key(first.prefix, "")
    assert await accounts() == [(first.id, 300)] * 3
    assert (stored := await directory.find_key(other.prefix))
    assert (stored.principal.key_id, stored.principal.key_budgets.total) == (other.id, None)


async def test_rotation_never_extends_the_expiry_of_the_old_key(tenants: TenantRepository) -> None:
    expires = NOW + timedelta(hours=5)
    old = await add_key(tenants, expires_at=expires)
    _, replaced = await tenants.rotate_key(old.prefix, new_key(), timedelta(days=1))
    assert replaced.expires_at == expires


async def test_rotation_without_grace_revokes_the_old_key(tenants: TenantRepository, database: Database) -> None:
    old = await add_key(tenants)
    _, replaced = await tenants.rotate_key(old.prefix, new_key(), timedelta())
    assert replaced.status == "revoked"
    assert await database.fetchval("SELECT prefix FROM gateway.revocations") == old.prefix


async def test_a_key_is_rotated_once_and_its_successor_can_be_rotated(tenants: TenantRepository) -> None:
    old = await add_key(tenants)
    new, _ = await tenants.rotate_key(old.prefix, new_key(), timedelta(hours=1))
    with pytest.raises(Conflict, match="replaced already"):
        await tenants.rotate_key(old.prefix, new_key(), timedelta(hours=1))
    newer, _ = await tenants.rotate_key(new.prefix, new_key(), timedelta(hours=1))
    assert [key.prefix for key in await tenants.list_keys(None)] == [old.prefix, new.prefix, newer.prefix]


@pytest.mark.parametrize("state", ["revoked", "expired"])
async def test_a_revoked_or_expired_key_is_not_rotated(tenants: TenantRepository, state: str) -> None:
    key = await add_key(tenants, expires_at=NOW - timedelta(seconds=1) if state == "expired" else None)
    if state == "revoked":
        await tenants.revoke_key(key.prefix, "")
    with pytest.raises(Conflict, match="create a new one"):
        await tenants.rotate_key(key.prefix, new_key(), timedelta(hours=1))


async def test_a_policy_change_keeps_all_other_fields(tenants: TenantRepository) -> None:
    tenant = PolicySubject("tenant", "ACME")
    await tenants.change_policy(tenant, {"tpm": 5, "budget_day": 0})
    policy = await tenants.change_policy(tenant, {"tpm": None, "budget_total": 9})
    assert (policy["rpm"], policy["tpm"], policy["budget_day"], policy["budget_total"]) == (10, None, 0, 9)


async def test_an_empty_policy_change_returns_the_stored_policy(tenants: TenantRepository) -> None:
    key = await add_key(tenants)
    assert (await tenants.change_policy(PolicySubject("key", key.prefix), {}))["rpm"] is None


@pytest.mark.parametrize("change", [{"rpm": 0}, {"tpm": -1}, {"concurrent": 0}, {"budget_month": -1}])
async def test_the_schema_refuses_a_limit_out_of_range(tenants: TenantRepository, change: PolicyChange) -> None:
    with pytest.raises(Conflict):
        await tenants.change_policy(PolicySubject("tenant", "acme"), change)
