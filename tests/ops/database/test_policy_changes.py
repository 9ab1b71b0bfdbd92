"""Every change of a tenant, a key or a policy leaves a row that names its maker and holds no secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.keys.repository import KeyRepository
from gateway.errors import DataRefused, NotFound, StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.values import Limits, Refusal
from ops.database import account_changes
from ops.database.audit_chain import AuditChain
from ops.database.audit_seal import AuditSealer
from ops.database.policies import Policy, PolicySubject
from ops.database.policy_changes import PolicyChanges
from ops.database.retention import Retention
from ops.database.tenants import TenantRepository
from tests.row_builders import HASH, add_key, entry

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ORIGIN = {"gateway.command": "set-limits", "gateway.os_user": "ada", "gateway.host": "console"}


@pytest.fixture
async def by_command(database_settings: Settings) -> AsyncIterator[Database]:
    database = Database(database_settings, local_settings=ORIGIN)
    yield database
    await database.close()


async def seal(database: Database) -> None:
    await AuditSealer(database, link_every_s=0).seal()


async def test_a_change_names_the_command_and_one_by_sql_does_not(database: Database, by_command: Database) -> None:
    await TenantRepository(by_command).create_tenant("acme", {"rpm": 60})
    await TenantRepository(by_command).change_policy(PolicySubject("tenant", "acme"), {"rpm": 120})
    await database.execute("UPDATE gateway.tenant_limits SET rpm = 999")
    *_, commanded, by_sql = await PolicyChanges(database).newest(None, 50)
    assert (commanded.command, commanded.os_user, commanded.host) == ("set-limits", "ada", "console")
    assert (commanded.tenant, commanded.before, commanded.after) == ("acme", {"rpm": 60}, {"rpm": 120})
    assert (by_sql.command, by_sql.os_user, by_sql.host) == (None, None, None)
    assert (by_sql.before, by_sql.after) == ({"rpm": 120}, {"rpm": 999})
    role = await database.fetchval("SELECT session_user::text")
    assert commanded.database_role == by_sql.database_role == role


async def test_every_repository_method_leaves_changes_and_none_holds_a_hash(by_command: Database) -> None:
    tenants, changes = TenantRepository(by_command), PolicyChanges(by_command)
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants)
    seen = len(await changes.newest(None, 1000))
    steps = (
        tenants.change_policy(PolicySubject("key", key.prefix), {"budget_day": 5}),
        account_changes.change_key(by_command, key.prefix, {"log_prompts": True}),
        account_changes.rename_tenant(by_command, "acme", "labs"),
        tenants.revoke_key(key.prefix, "test"),
        tenants.set_tenant_enabled("labs", False),
        account_changes.delete_tenant(by_command, "labs"),
    )
    for step in steps:
        await step
        now = len(await changes.newest(None, 1000))
        assert now > seen
        seen = now
    everything = await changes.newest(None, 1000)
    assert {change.command for change in everything} == {"set-limits"}
    assert HASH not in str(await by_command.fetch("SELECT * FROM gateway.policy_changes"))
    assert "argon2" not in str(everything)
    assert [(c.action, c.tenant, c.prefix) for c in everything if c.action == "delete" and c.subject == "key"] == [
        ("delete", "labs", key.prefix)
    ] * 2


async def test_a_use_of_a_key_is_no_change_and_a_new_hash_is_one(database: Database) -> None:
    tenants, keys = TenantRepository(database), KeyRepository(database, Limits(1, 1, 1))
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants)
    before = len(await PolicyChanges(database).newest(None, 1000))
    await keys.touch([key.prefix], timedelta(0))
    assert len(await PolicyChanges(database).newest(None, 1000)) == before
    await keys.store_hash(key.prefix, HASH, HASH + "a")
    await database.execute("UPDATE gateway.api_keys SET hash = $1", HASH + "b")
    *_, rehashed, replaced = await PolicyChanges(database).newest(None, 1000)
    assert (rehashed.command, rehashed.after) == ("authz", {"secret_changed": True})
    assert (replaced.command, replaced.after) == (None, {"secret_changed": True})


async def test_the_role_of_the_services_leaves_a_change_and_cannot_write_one(
    database: Database, service_database: Database
) -> None:
    await TenantRepository(database).create_tenant("acme", {})
    await add_key(TenantRepository(database))
    await service_database.execute("UPDATE gateway.api_keys SET hash = $1", HASH + "c")
    (*_, change) = await PolicyChanges(database).newest(None, 50)
    assert change.database_role == await service_database.fetchval("SELECT session_user::text")
    with pytest.raises(StoreUnavailable, match="does not let"):
        await service_database.execute(
            "INSERT INTO gateway.policy_changes (database_role, action, relation) VALUES ('x', 'insert', 'tenants')"
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.policy_changes SET command = 'x'",
        "DELETE FROM gateway.policy_changes",
        "TRUNCATE gateway.policy_changes",
    ],
)
async def test_changes_are_append_only(database: Database, statement: str) -> None:
    await TenantRepository(database).create_tenant("acme", {})
    with pytest.raises((StoreUnavailable, DataRefused)):
        await database.execute(statement)


async def test_emptying_a_table_leaves_a_change(database: Database) -> None:
    await TenantRepository(database).create_tenant("acme", {})
    await database.execute("TRUNCATE gateway.tenant_limits")
    (*_, change) = await PolicyChanges(database).newest(None, 50)
    assert (change.action, change.subject, change.command) == ("truncate", "tenant", None)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE gateway.policy_changes SET command = 'migrate' WHERE seq = (SELECT min(seq) FROM {})", "changed"),
        (
            "UPDATE gateway.policy_changes SET after = after || '{{\"rpm\": 1}}' WHERE relation = 'tenant_limits'",
            "changed",
        ),
        ("DELETE FROM gateway.policy_changes WHERE seq = (SELECT max(seq) FROM {})", "removed"),
        ("UPDATE gateway.policy_changes SET seq = -seq WHERE seq = (SELECT min(seq) FROM {})", "changed"),
        ("INSERT INTO {} (seq, database_role, action, relation) VALUES (0, 'x', 'insert', 'tenants')", "inserted"),
        ("UPDATE gateway.audit_chain SET changes = 9", "was changed"),
    ],
)
async def test_the_audit_chain_finds_manipulated_changes(database: Database, statement: str, problem: str) -> None:
    await TenantRepository(database).create_tenant("acme", {})
    await seal(database)
    await Ledger(database).append([entry("a")])
    await TenantRepository(database).change_policy(PolicySubject("tenant", "acme"), {"rpm": 120})
    await seal(database)
    report = await AuditChain(database).verify(LONG_AGO)
    assert (report.links, report.rows, report.changes, report.unsealed.rows, report.problems) == (2, 1, 3, 0, ())
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement.format("gateway.policy_changes"))
    assert problem in " ".join((await AuditChain(database).verify(LONG_AGO)).problems)


async def test_retention_drops_audit_rows_and_leaves_changes_verifiable(
    database: Database,
) -> None:
    old = datetime.now(UTC) - timedelta(days=400)
    await TenantRepository(database).create_tenant("acme", {})
    await Ledger(database).append([entry("old", old)])
    await seal(database)
    kept_since = datetime.now(UTC) - timedelta(days=365)
    await Retention(database).prune(kept_since, datetime.now(UTC))
    report = await AuditChain(database).verify(kept_since)
    assert (report.links, report.rows, report.changes, report.problems) == (1, 0, 2, ())
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE gateway.policy_changes SET tenant = 'other'")
    assert (await AuditChain(database).verify(kept_since)).problems != ()


VALUES = st.one_of(st.none(), st.integers(1, 1000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tenant"), st.sampled_from(["rpm", "budget_day", "max_output"]), VALUES),
        st.tuples(st.just("key"), st.sampled_from(["tpm", "budget_month", "concurrent"]), VALUES),
        st.tuples(st.just("enabled"), st.just(""), st.booleans()),
    ),
    max_size=8,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_a_past_policy_is_the_one_that_was_stored_then(
    database: Database, steps: list[tuple[str, str, object]]
) -> None:
    tenants, changes = TenantRepository(database), PolicyChanges(database)
    name = f"t{await database.fetchval(_TENANTS)}"
    await tenants.create_tenant(name, {})
    key = await add_key(tenants, name)
    expected = []
    for kind, column, value in steps:
        if kind == "enabled":
            await tenants.set_tenant_enabled(name, bool(value))
        else:
            subject = PolicySubject("tenant", name) if kind == "tenant" else PolicySubject("key", key.prefix)
            await tenants.change_policy(subject, {column: value})  # type: ignore[misc]
        at = await database.fetchval("SELECT clock_timestamp()")
        stored = {row["of"]: dict(row) for row in await database.fetch(_STORED, name, key.prefix)}
        expected.append((at, stored, (await tenants.get_tenant(name)).status))
    for at, stored, status in expected:
        found = await changes.policy_at(key.prefix, at)
        assert {**found.own, "of": "key"} == {**stored["key"], "of": "key"}
        assert {**found.of_tenant, "of": "tenant"} == {**stored["tenant"], "of": "tenant"}
        assert found.refusal is (None if status == "active" else Refusal.TENANT_DISABLED)


_TENANTS = "SELECT count(*) FROM gateway.tenants"
_COLUMNS = ", ".join(Policy.__annotations__)
# A key has no weight.
_COLUMNS_OF_KEY = ", ".join("NULL" if name == "weight" else name for name in Policy.__annotations__)
_STORED = f"""
SELECT 'tenant' AS of, {_COLUMNS} FROM gateway.tenant_limits
    WHERE tenant_id = (SELECT id FROM gateway.tenants WHERE name = $1)
UNION ALL
SELECT 'key', {_COLUMNS_OF_KEY} FROM gateway.key_limits
    WHERE key_id = (SELECT account_id FROM gateway.api_keys WHERE prefix = $2)
"""  # noqa: S608 (the names above)


async def test_a_key_has_no_policy_before_it_existed_and_after_it_was_deleted(database: Database) -> None:
    before = await database.fetchval("SELECT clock_timestamp()")
    tenants, changes = TenantRepository(database), PolicyChanges(database)
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants, expires_at=datetime.now(UTC) + timedelta(hours=1))
    created = await database.fetchval("SELECT clock_timestamp()")
    await tenants.set_tenant_enabled("acme", False)
    await account_changes.delete_tenant(database, "acme")
    assert (await changes.policy_at(key.prefix, created)).refusal is None
    for time in (before, datetime.now(UTC) + timedelta(minutes=1)):
        with pytest.raises(NotFound, match="recorded since"):
            await changes.policy_at(key.prefix, time)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.tenant_limits SET rpm = 999",
        "UPDATE gateway.tenant_limits SET allowed_models = '{a,b}'",
        "UPDATE gateway.api_keys SET scopes = '{chat,debug}'",
        "UPDATE gateway.api_keys SET expires_at = NULL",
        "UPDATE gateway.tenants SET status = 'active'",
        "DELETE FROM gateway.key_limits",
        "INSERT INTO gateway.tenants (name) VALUES ('other')",
    ],
)
async def test_a_change_with_the_triggers_off_is_found(database: Database, statement: str) -> None:
    tenants = TenantRepository(database)
    await tenants.create_tenant("acme", {"rpm": 1, "allowed_models": ["a"]})
    await add_key(tenants, expires_at=datetime.now(UTC) + timedelta(hours=1))
    await tenants.set_tenant_enabled("acme", False)
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL timezone = 'Asia/Tokyo'")
        await connection.execute("UPDATE gateway.api_keys SET log_prompts = true, last_used_at = now()")
    await seal(database)
    assert (await AuditChain(database).verify(LONG_AGO)).problems == ()
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement)
    assert "differs from its last policy change" in (await AuditChain(database).verify(LONG_AGO)).problems[0]


async def test_emptied_tables_have_no_policy_and_no_unrecorded_change(database: Database) -> None:
    tenants, changes = TenantRepository(database), PolicyChanges(database)
    await tenants.create_tenant("acme", {})
    key = await add_key(tenants)
    await database.execute("TRUNCATE gateway.tenants CASCADE")
    assert (await AuditChain(database).verify(LONG_AGO)).problems == ()
    with pytest.raises(NotFound):
        await changes.policy_at(key.prefix, datetime.now(UTC) + timedelta(minutes=1))
