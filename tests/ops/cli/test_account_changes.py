from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.ops.cli.conftest import Operator
from tests.ops.cli.test_usage_and_audit import record

KEY = ("--tenant", "acme", "--prefix", "laptop")


@pytest.fixture
def prefix(operator: Operator) -> str:
    """The prefix of the key `laptop` of the tenant `acme`."""
    operator.does("create-tenant", "--name", "acme", "--rpm", "7")
    prefix: str = operator.reads("create-key", "--tenant", "acme", "--name", "laptop")["prefix"]
    return prefix


def test_a_renamed_tenant_keeps_its_keys_and_policy(operator: Operator, prefix: str) -> None:
    assert operator.does("rename-tenant", "--name", "ACME", "--new-name", "Acme Labs") == (
        "the tenant ACME is now named Acme Labs\n"
    )
    (tenant,) = operator.reads("list-tenants")
    assert (tenant["name"], tenant["rpm"], tenant["keys"]) == ("Acme Labs", 7, 1)
    operator.does("rename-tenant", "--name", "acme labs", "--new-name", "ACME LABS")
    operator.does("create-tenant", "--name", "other")
    assert "exists already" in operator.fails("rename-tenant", "--name", "other", "--new-name", "acme labs")
    assert "did you mean other?" in operator.fails("rename-tenant", "--name", "othr", "--new-name", "x")


def test_only_a_disabled_tenant_is_deleted_and_its_audit_rows_stay(operator: Operator, prefix: str) -> None:
    record(operator, "one", tenant="acme", key_prefix=prefix)
    assert "--yes" in operator.fails("delete-tenant", "--name", "acme")
    assert "disable it first" in operator.fails("delete-tenant", "--name", "acme", "--yes")
    operator.does("rotate-key", "--prefix", prefix)
    operator.does("disable-tenant", "--name", "acme")
    assert operator.does("delete-tenant", "--name", "acme", "--yes") == "the tenant acme and its 2 keys are deleted\n"
    assert operator.reads("list-tenants") == operator.reads("list-keys") == []
    assert [row["tenant"] for row in operator.reads("show-audit")] == ["acme"]
    assert "no tenant named acme" in operator.fails("delete-tenant", "--name", "acme", "--yes")


def test_the_decisions_of_create_key_are_changed_later(operator: Operator, prefix: str) -> None:
    options = ["--name", "Desktop", "--scopes", "embeddings,chat", "--expires", "90d", "--log-prompts"]
    key = operator.reads("set-key", *KEY, *options)
    assert (key["prefix"], key["name"], key["scopes"]) == (prefix, "Desktop", ["chat", "embeddings"])
    assert (datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)).days in (89, 90)
    assert key["log_prompts"] is True
    key = operator.reads("set-key", "--prefix", prefix, "--expires", "NEVER", "--no-log-prompts")
    assert (key["name"], key["expires_at"], key["log_prompts"]) == ("Desktop", None, False)
    assert operator.does("set-key", "--prefix", prefix, "--scopes", "chat") == (
        f"the key {prefix} is Desktop of acme; interactive; scopes chat; never expires; prompts are not logged\n"
    )


def test_a_key_that_is_replaced_or_revoked_or_whose_name_is_taken_is_not_changed(
    operator: Operator, prefix: str
) -> None:
    operator.does("create-key", "--tenant", "acme", "--name", "phone")
    assert "named PHONE already" in operator.fails("set-key", *KEY, "--name", "PHONE")
    operator.does("rotate-key", "--prefix", prefix)
    assert "revoked or replaced" in operator.fails("set-key", "--prefix", prefix, "--expires", "never")
    assert "no key with the prefix" in operator.fails("set-key", "--prefix", "nz_000000000", "--name", "x")
    assert "at least one" in operator.misuses("set-key", *KEY)
    assert "such as 90d" in operator.misuses("set-key", *KEY, "--expires", "soon")
