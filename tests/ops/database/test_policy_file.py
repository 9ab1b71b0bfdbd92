"""A policy file round-trips, is applied once, and refuses what it does not know by name."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.keys.key_format import generate
from gateway.errors import Conflict
from gateway.stores.postgres import Database
from ops.database.policies import Policy, PolicySubject
from ops.database.policy_changes import PolicyChanges
from ops.database.policy_difference import Difference, differences
from ops.database.policy_file import PolicyFile, PolicyFileRefused, dump, load
from ops.database.policy_store import apply_file, stored_policies
from ops.database.tenants import NewKey, TenantRepository
from tests.row_builders import HASH, add_key

names = st.text("abcAB ü1-:#'\"", min_size=1, max_size=12).map(str.strip).filter(bool)
counts = st.none() | st.integers(1, 2**31 - 1)
limits: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "rpm": counts,
        "tpm": counts,
        "concurrent": counts,
        "max_output": counts,
        "max_body": st.none() | st.integers(1024, 2**26),
    }
)
budgets = st.fixed_dictionaries({name: st.none() | st.integers(0, 2**53 - 1) for name in ("daily", "monthly", "total")})
models = st.lists(st.sampled_from(["a:latest", "b:1b", "hf.co/u/m:q4"]), unique=True).map(sorted)
keys: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "prefix": st.just(None),
        "name": names,
        "scopes": st.lists(st.sampled_from(["chat", "debug", "embeddings", "runner"]), min_size=1, unique=True).map(
            sorted
        ),
        "log_prompts": st.booleans(),
        "expires_at": st.none() | st.datetimes(datetime(2030, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (Hypothesis takes naive bounds)
        "limits": limits,
        "budgets": budgets,
        "models": st.fixed_dictionaries({"allow_all": st.none() | st.booleans(), "names": st.none() | models}),
    }
)
tenants: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "name": names,
        "status": st.sampled_from(["active", "disabled"]),
        "limits": limits,
        "budgets": budgets,
        "models": st.fixed_dictionaries({"allow_all": st.booleans(), "names": models}),
        "keys": st.lists(keys, max_size=3, unique_by=lambda key: key["name"].lower()),
    }
)
files = st.lists(tenants, max_size=3, unique_by=lambda tenant: tenant["name"].lower()).map(
    lambda found: PolicyFile.model_validate({"version": 1, "tenants": found})
)


async def compare(database: Database, file: PolicyFile) -> list[Difference]:
    stored = await stored_policies(database)
    return differences(stored.file, file, stored.unusable)


async def apply(database: Database, file: PolicyFile) -> list[Difference]:
    found = await compare(database, file)
    created = [each for each in found if (each.subject, each.action) == ("key", "create")]
    new = {(each.tenant, each.name): NewKey(generate(each.prefix).prefix, HASH) for each in created}
    await apply_file(database, file, found, new)
    return found


async def export(database: Database) -> str:
    return dump((await stored_policies(database)).file)


async def clear(database: Database) -> None:
    await database.execute("DELETE FROM gateway.tenants")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(file=files, other=files)
async def test_an_exported_file_restores_an_empty_database_and_any_other_one(
    database: Database, file: PolicyFile, other: PolicyFile
) -> None:
    await clear(database)
    await apply(database, file)
    exported = await export(database)
    assert load(exported) == (await stored_policies(database)).file
    assert await compare(database, load(exported)) == await compare(database, file) == []
    # Another file changes what it names, and the exported one changes that back.
    await apply(database, other)
    await apply(database, load(exported))
    assert await compare(database, load(exported)) == []
    await clear(database)
    await apply(database, load(exported))
    assert await export(database) == exported


async def test_a_second_application_changes_nothing_and_a_change_is_minimal(database: Database) -> None:
    text = "version: 1\ntenants:\n- name: acme\n  limits: {rpm: 60}\n  keys:\n  - name: laptop\n"
    assert [each.action for each in await apply(database, load(text))] == ["create", "create"]
    recorded = len(await PolicyChanges(database).newest(None, 1000))
    assert await apply(database, load(text)) == []
    assert len(await PolicyChanges(database).newest(None, 1000)) == recorded
    (change,) = await apply(database, load(text.replace("60", "90")))
    assert change == Difference("change", "tenant", "acme", "acme", None, {"rpm": (60, 90)})
    (*_, last) = await PolicyChanges(database).newest(None, 1000)
    assert (last.before, last.after) == ({"rpm": 60}, {"rpm": 90})


async def test_what_the_file_does_not_name_stays(database: Database) -> None:
    repository = TenantRepository(database)
    for name in ("acme", "beta"):
        await repository.create_tenant(name, {"rpm": 5})
        await add_key(repository, name)
    before = await stored_policies(database)
    await apply(database, load("version: 1\ntenants:\n- name: acme\n"))
    after = await stored_policies(database)
    assert after.file.tenants[1] == before.file.tenants[1]
    assert after.file.tenants[0].keys == before.file.tenants[0].keys
    assert after.file.tenants[0].limits.rpm is None


async def test_a_failure_leaves_everything_as_it_was(database: Database) -> None:
    await TenantRepository(database).create_tenant("acme", {})
    laptop, _ = [await add_key(TenantRepository(database), name=name) for name in ("laptop", "phone")]
    text = "version: 1\ntenants:\n- {name: acme, status: disabled, keys: [{prefix: PREFIX, name: phone}]}\n"
    before = await export(database)
    with pytest.raises(Conflict):
        await apply(database, load(text.replace("PREFIX", laptop.prefix)))
    assert await export(database) == before


async def test_policies_that_changed_since_they_were_shown_are_not_overwritten(database: Database) -> None:
    await TenantRepository(database).create_tenant("acme", {"rpm": 1})
    file = load("version: 1\ntenants:\n- {name: acme, limits: {rpm: 2}}\n")
    shown = await compare(database, file)
    await TenantRepository(database).change_policy(PolicySubject("tenant", "acme"), {"rpm": 3})
    with pytest.raises(Conflict, match="changed meanwhile"):
        await apply_file(database, file, shown, {})
    assert (await stored_policies(database)).file.tenants[0].limits.rpm == 3


async def test_keys_that_cannot_be_used_again_are_named(database: Database) -> None:
    repository = TenantRepository(database)
    for name in ("acme", "beta"):
        await repository.create_tenant(name, {})
    revoked, old, foreign = [await add_key(repository, name=name) for name in ("a", "b", "c")]
    await repository.revoke_key(revoked.prefix, "")
    await repository.rotate_key(old.prefix, NewKey(generate().prefix, HASH), timedelta(hours=1))
    text = "version: 1\ntenants:\n- {name: TENANT, keys: [{prefix: PREFIX, name: x}]}\n"
    for key, tenant, reason in (
        (revoked, "acme", "is revoked"), (old, "acme", "was replaced"), (foreign, "beta", "is one of acme"),
    ):  # fmt: skip
        with pytest.raises(Conflict, match=reason):
            await compare(database, load(text.replace("TENANT", tenant).replace("PREFIX", key.prefix)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 1\ntenants: [{name: a, limits: {rmp: 1}}]", "tenants.0.limits.rmp is not a field"),
        ("version: 1\ntenants: [{name: a, keys: [{name: k, secret: x}]}]", "tenants.0.keys.0.secret is not a field"),
        ("version: 1\nbackends: []", "backends is not a field"),
        ("version: 2", "version"),
        ("tenants: []", "version is missing"),
        ("version: 1\ntenants: [{limits: {}}]", "tenants.0.name is missing"),
        ("version: 1\ntenants: [{name: a, limits: {rpm: 0}}]", "tenants.0.limits.rpm"),
        ("version: 1\ntenants: [{name: a, limits: {rpm: true}}]", "tenants.0.limits.rpm"),
        ("version: 1\ntenants: [{name: a, limits: {rpm: '5'}}]", "tenants.0.limits.rpm"),
        ("version: 1\ntenants: [{name: a, limits: {rpm: 1, rpm: 2}}]", "given twice in line 2: rpm"),
        ("version: 1\ntenants: [{name: a}, {name: A}]", "two tenants are named a"),
        ("version: 1\ntenants: [{name: a, keys: [{name: k}, {name: K}]}]", "two keys named k"),
        ("version: 1\ntenants: [{name: a, keys: [{name: k, scopes: [admin]}]}]", "tenants.0.keys.0.scopes.0"),
        ("version: 1\ntenants: [{name: a, keys: [{name: k, expires_at: soon}]}]", "tenants.0.keys.0.expires_at"),
        ("version: 1\ntenants: [{name: a, keys: [{name: k, prefix: nz_1}]}]", "tenants.0.keys.0.prefix"),
        ("version: 1\ntenants: [{name: a, models: {names: ['b c']}}]", "tenants.0.models.names.0"),
        ("{", "not YAML"),
        ("!!python/object:os.system x", "not YAML"),
        ("", "policy file"),
        ("[]", "policy file"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(PolicyFileRefused, match=r"^the policy file") as refused:
        load(text)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["2030-12-31", "2030-12-31T00:00:00", "'2030-12-31'", "2030-12-31T02:00:00+02:00"])
def test_a_time_may_be_a_date_and_is_in_utc_without_a_zone(text: str) -> None:
    file = load(f"version: 1\ntenants: [{{name: a, keys: [{{name: k, expires_at: {text}}}]}}]")
    assert file.tenants[0].keys[0].expires_at == datetime(2030, 12, 31, tzinfo=UTC)


def test_the_documented_file_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs/policy-files.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    (tenant,) = load(block).tenants
    assert (tenant.limits.rpm, tenant.keys[0].limits.concurrent) == (120, 2)


async def test_every_stored_column_is_in_the_file_or_deliberately_not(database: Database) -> None:
    """A column that a later migration adds has to be exported too, or to be named here."""
    policy = set(Policy.__annotations__)
    exported = {
        "tenants": {"name", "status"},
        "tenant_limits": policy,
        "key_limits": policy - {"weight"},
        "api_keys": {"prefix", "name", "scopes", "log_prompts", "priority", "expires_at"},
    }
    left_out = {"id", "tenant_id", "key_id", "created_at", "hash", "last_used_at", "replaced_by", "account_id"}
    # Revoked keys are not exported, so the status of a key is always `active`.
    left_out_of_keys = {"status"}
    columns = await database.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'gateway'"
    )
    for table, names in exported.items():
        stored = {row["column_name"] for row in columns if row["table_name"] == table}
        assert stored - left_out - (left_out_of_keys if table == "api_keys" else set()) == names
