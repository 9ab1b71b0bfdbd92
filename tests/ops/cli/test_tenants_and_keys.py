from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from authz.keys.hashing import KeyHasher
from authz.keys.key_format import parse
from authz.keys.repository import KeyRepository
from gateway.settings import load
from gateway.stores.postgres import Database
from gateway.values import Limits
from tests.ops.cli.conftest import Operator

NEW_KEY = {"key", "prefix", "tenant", "name", "scopes", "expires_at"}
KEY = {"prefix", "name", "tenant", "status", "scopes", "created_at", "expires_at", "last_used_at"}
IN_FORCE = {
    "tenant_disabled",
    "replaced_by",
    "reason",
    "log_prompts",
    "priority",
    "identities",
    "budget_day",
    "budget_month",
    "budget_total",
    "in_force",
}


@pytest.fixture
def acme(operator: Operator) -> Operator:
    operator.does("create-tenant", "--name", "Acme")
    return operator


def _create_key(operator: Operator, name: str = "laptop", *options: str) -> dict[str, Any]:
    key: dict[str, Any] = operator.reads("create-key", "--tenant", "acme", "--name", name, *options)
    return key


def test_a_tenant_is_created_with_its_policy(operator: Operator) -> None:
    options = ["--rpm", "5", "--tpm", "1000", "--concurrent", "2", "--models", "LLAMA3.2, hf.co/u/m:Q4_K_M"]
    tenant = operator.reads("create-tenant", "--name", " Acme ", *options)
    assert (tenant["name"], tenant["status"], tenant["keys"]) == ("Acme", "active", 0)
    assert (tenant["rpm"], tenant["tpm"], tenant["concurrent"]) == (5, 1000, 2)
    assert (tenant["allow_all_models"], tenant["allowed_models"]) == (False, ["hf.co/u/m:q4_k_m", "llama3.2:latest"])
    assert operator.reads("list-tenants") == [tenant]


def test_creating_a_tenant_without_models_prints_how_to_allow_some(operator: Operator) -> None:
    assert 'set-models --tenant "Acme"' in operator.does("create-tenant", "--name", "Acme")
    assert "set-models" not in operator.does("create-tenant", "--name", "Beta", "--allow-all-models")


def test_an_empty_list_names_the_command_that_creates_an_entry(operator: Operator) -> None:
    assert "create-tenant" in operator.does("list-tenants")
    assert "create-key" in operator.does("list-keys")
    assert operator.reads("list-tenants") == operator.reads("list-keys") == []


def test_the_table_of_tenants_shows_names_literally(acme: Operator) -> None:
    acme.does("create-tenant", "--name", "[bold]Beta[/]", "--rpm", "1234")
    table = acme.does("list-tenants")
    assert "Acme" in table
    assert "[bold]Beta[/]" in table
    assert "1,234" in table


def test_a_taken_name_is_rejected_in_any_letter_case(acme: Operator) -> None:
    assert "exists already" in acme.fails("create-tenant", "--name", "ACME")


def test_the_error_for_an_unknown_tenant_suggests_a_similar_name(acme: Operator) -> None:
    assert acme.fails("list-keys", "--tenant", "acne") == "error: there is no tenant named acne; did you mean Acme?\n"


def test_a_tenant_is_disabled_and_enabled(acme: Operator) -> None:
    assert acme.does("disable-tenant", "--name", "ACME") == "the tenant Acme is disabled\n"
    assert acme.reads("list-tenants")[0]["status"] == "disabled"
    assert acme.reads("enable-tenant", "--name", "acme")["status"] == "active"


def test_a_new_key_is_printed_in_full_and_matches_the_stored_hash(acme: Operator) -> None:
    created = _create_key(acme)
    assert set(created) == NEW_KEY
    assert (created["tenant"], created["name"]) == ("Acme", "laptop")
    assert created["scopes"] == ["chat", "embeddings"]
    assert created["expires_at"] is None
    assert parse(created["key"]) is not None
    assert created["key"].startswith(created["prefix"])

    async def verify() -> bool:
        settings = load(acme.env_file)
        database, hasher = Database(settings), KeyHasher.from_settings(settings)
        stored = await KeyRepository(database, Limits(1, 1, 1)).find_key(created["prefix"])
        await database.close()
        assert stored is not None
        return stored.is_usable(datetime.now(UTC)) and await hasher.verify(stored.hash, SecretStr(created["key"]))

    assert asyncio.run(verify())


def test_a_new_key_is_printed_once_with_the_environment_of_three_clients(acme: Operator) -> None:
    output = acme.does("create-key", "--tenant", "acme", "--name", "laptop")
    (line,) = [line for line in output.splitlines() if "nz_" in line]
    assert parse(line.partition("=")[2]) is not None
    for variable in ("OPENAI_BASE_URL=http://127.0.0.1:8080/v1", "OPENAI_API_KEY=$GATEWAY_API_KEY",
                     "OLLAMA_HOST=http://127.0.0.1:8080", "ANTHROPIC_BASE_URL=http://127.0.0.1:8080"):  # fmt: skip
        assert variable in output


def test_a_list_of_keys_holds_no_secret_and_no_hash(acme: Operator) -> None:
    created = _create_key(acme)
    listed = acme.reads("list-keys", "--tenant", "ACME")
    assert [set(key) for key in listed] == [KEY | IN_FORCE]
    assert (listed[0]["prefix"], listed[0]["status"]) == (created["prefix"], "active")
    for output in (str(listed), acme.does("list-keys")):
        assert created["prefix"] in output
        assert created["key"] not in output
        assert "argon2" not in output


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90d", timedelta(days=90)),
        ("36h", timedelta(hours=36)),
        ("5m", timedelta(minutes=5)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_an_expiry_is_counted_from_now(acme: Operator, text: str, length: timedelta) -> None:
    before = datetime.now(UTC)
    expires = datetime.fromisoformat(_create_key(acme, "laptop", "--expires", text)["expires_at"])
    assert before + length <= expires <= datetime.now(UTC) + length


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2199-12-31", "2199-12-31T00:00:00Z"), ("2199-12-31T12:00:00+02:00", "2199-12-31T10:00:00Z")],
)
def test_an_expiry_may_be_a_date(acme: Operator, text: str, expected: str) -> None:
    assert _create_key(acme, "laptop", "--expires", text)["expires_at"] == expected


def test_an_expired_key_is_listed_as_such(acme: Operator) -> None:
    _create_key(acme, "laptop", "--expires", "1h")

    async def age() -> None:
        database = Database(load(acme.env_file))
        await database.execute("UPDATE gateway.api_keys SET expires_at = now()")
        await database.close()

    asyncio.run(age())
    assert acme.reads("list-keys")[0]["status"] == "expired"


def test_revoking_is_permanent_and_idempotent(acme: Operator) -> None:
    prefix = _create_key(acme)["prefix"]
    assert acme.does("revoke-key", "--prefix", prefix) == f"the key {prefix} is revoked\n"
    assert acme.reads("revoke-key", "--prefix", prefix) == {"prefix": prefix, "status": "revoked"}
    assert acme.reads("list-keys")[0]["status"] == "revoked"


def test_a_list_of_keys_shows_why_a_key_is_denied_and_what_replaced_it(acme: Operator) -> None:
    first, second = _create_key(acme), _create_key(acme, "phone")
    new = acme.reads("rotate-key", "--prefix", first["prefix"])
    acme.does("revoke-key", "--prefix", second["prefix"], "--reason", "lost on a train")
    acme.does("disable-tenant", "--name", "acme")
    rows = {line.split()[0]: line for line in acme.does("list-keys").splitlines()}
    assert f"tenant disabled, replaced by {new['prefix']}" in rows[first["prefix"]]
    assert "lost on a train" in rows[second["prefix"]]
    keys = {key["prefix"]: key for key in acme.reads("list-keys")}
    assert (keys[first["prefix"]]["replaced_by"], keys[second["prefix"]]["reason"]) == (
        new["prefix"],
        "lost on a train",
    )
    assert keys[new["prefix"]]["tenant_disabled"] is True


def test_a_whole_key_is_accepted_as_a_prefix_and_not_repeated(acme: Operator) -> None:
    created = _create_key(acme)
    output = acme.does("revoke-key", "--prefix", created["key"])
    assert created["prefix"] in output
    assert created["key"] not in output


def test_a_mistyped_key_given_as_a_prefix_is_not_repeated(acme: Operator) -> None:
    mistyped = _create_key(acme)["key"][:-1] + "-"
    assert mistyped[12:-1] not in acme.misuses("revoke-key", "--prefix", mistyped)


def test_rotation_prints_a_new_key_and_expires_the_old_one_after_a_day(acme: Operator) -> None:
    old = _create_key(acme, "laptop", "--scopes", "chat")
    before = datetime.now(UTC)
    new = acme.reads("rotate-key", "--prefix", old["prefix"])
    assert set(new) >= NEW_KEY
    assert (new["name"], new["scopes"], new["replaces"]) == ("laptop", ["chat"], old["prefix"])
    ends = {key["prefix"]: key["expires_at"] for key in acme.reads("list-keys")}
    assert ends[new["prefix"]] is None
    assert before < datetime.fromisoformat(ends[old["prefix"]]) < datetime.now(UTC) + timedelta(hours=25)


def test_rotation_without_grace_revokes_the_old_key(acme: Operator) -> None:
    old = _create_key(acme)
    assert f"the key {old['prefix']} is revoked" in acme.does("rotate-key", "--prefix", old["prefix"], "--grace", "0")
    assert "replaced already" in acme.fails("rotate-key", "--prefix", old["prefix"])


def test_a_second_key_of_the_same_name_is_rejected(acme: Operator) -> None:
    _create_key(acme)
    assert "rotate or revoke" in acme.fails("create-key", "--tenant", "acme", "--name", "LAPTOP")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create-tenant"], "--name"),
        (["create-tenant", "--name", " "], "1 to 100"),
        (["create-tenant", "--name", "a\nb"], "printable"),
        (["create-tenant", "--name", "x" * 101], "1 to 100"),
        (["create-tenant", "--name", "x", "--rpm", "0"], "from 1 to"),
        (["create-tenant", "--name", "x", "--rpm", "1.5"], "whole number"),
        (["create-tenant", "--name", "x", "--rpm", "inherit"], "whole number"),
        (["create-tenant", "--name", "x", "--tpm", "99999999999999999999999"], "whole number"),
        (["create-tenant", "--name", "x", "--models", "a,b c"], "model name"),
        (["create-key", "--tenant", "acme", "--name", "x", "--scopes", "chat,admin"], "chat, embeddings"),
        (["create-key", "--tenant", "acme", "--name", "x", "--scopes", ","], "separated by commas"),
        (["create-key", "--tenant", "acme", "--name", "x", "--expires", "90"], "such as 90d"),
        (["create-key", "--tenant", "acme", "--name", "x", "--expires", "999999999w"], "such as 90d"),
        (["create-key", "--tenant", "acme", "--name", "x", "--expires", "0d"], "future"),
        (["create-key", "--tenant", "acme", "--name", "x", "--expires", "2020-01-01"], "future"),
        (["rotate-key", "--prefix", "nz_123456789", "--grace", "tomorrow"], "such as 24h"),
        (["revoke-key", "--prefix", "laptop"], "requires --tenant"),
        (["revoke-key", "--prefix", "nz_1234567890"], "first characters"),
    ],
)  # fmt: skip
def test_wrong_usage_names_what_is_expected(acme: Operator, arguments: list[str], reason: str) -> None:
    assert reason in acme.misuses(*arguments)
