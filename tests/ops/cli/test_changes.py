"""Commands leave changes that name them, and a past policy can be shown."""

from __future__ import annotations

import asyncio
import getpass
import socket
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.settings import load
from gateway.stores.postgres import Database
from tests.ops.cli.conftest import Operator


def by_sql(operator: Operator, statement: str) -> Any:
    async def execute() -> Any:
        database = Database(load(operator.env_file))
        try:
            return await database.fetchval(statement)
        finally:
            await database.close()

    return asyncio.run(execute())


@pytest.fixture
def prefix(operator: Operator) -> str:
    """A key of the tenant acme."""
    operator.does("create-tenant", "--name", "acme", "--rpm", "60")
    return str(operator.reads("create-key", "--tenant", "acme", "--name", "laptop")["prefix"])


@pytest.mark.parametrize(
    "command",
    [
        ["rename-tenant", "--name", "acme", "--new-name", "labs"],
        ["disable-tenant", "--name", "acme"],
        ["set-limits", "--tenant", "acme", "--rpm", "9"],
        ["set-limits", "--prefix", "PREFIX", "--rpm", "9"],
        ["set-budget", "--tenant", "acme", "--daily", "9"],
        ["set-models", "--prefix", "PREFIX", "--models", "m"],
        ["set-key", "--prefix", "PREFIX", "--name", "phone"],
        ["revoke-key", "--prefix", "PREFIX"],
        ["rotate-key", "--prefix", "PREFIX"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_command_leaves_a_change_that_names_it_and_its_user(
    operator: Operator, prefix: str, command: list[str]
) -> None:
    before = operator.reads("show-changes", "--limit", "1000")
    result = operator.run(*(prefix if word == "PREFIX" else word for word in command))
    assert result.exit_code == 0
    new = operator.reads("show-changes", "--limit", "1000")[len(before) :]
    assert new
    assert {(change["command"], change["os_user"], change["host"]) for change in new} == {
        (command[0], getpass.getuser(), socket.gethostname())
    }


def test_changes_are_a_table_and_those_by_sql_are_marked(operator: Operator, prefix: str) -> None:
    operator.does("set-limits", "--tenant", "acme", "--rpm", "120")
    by_sql(operator, "UPDATE gateway.tenant_limits SET rpm = 999")
    *_, commanded, sql = operator.does("show-changes").splitlines()
    assert "set-limits" in commanded
    assert "rpm 60 → 120" in commanded
    assert "(by SQL)" in sql
    assert "rpm 120 → 999" in sql
    assert prefix in operator.does("show-changes")


def test_a_whole_key_is_in_no_change(operator: Operator, prefix: str) -> None:
    key = operator.reads("rotate-key", "--prefix", prefix)["key"]
    operator.does("revoke-key", "--prefix", key)
    shown = operator.does("show-changes", "--json", "--limit", "1000")
    assert key[12:] not in shown
    assert key[12:] not in str(by_sql(operator, "SELECT string_agg(c::text, '') FROM gateway.policy_changes c"))


def test_a_past_policy_is_shown_with_its_sources(operator: Operator, prefix: str) -> None:
    then = by_sql(operator, "SELECT clock_timestamp()")
    operator.does("set-limits", "--tenant", "acme", "--rpm", "9")
    operator.does("disable-tenant", "--name", "acme")
    past = operator.reads("policy-at", "--time", then.isoformat(), "--prefix", prefix)
    assert (past["usable"], past["tenant"], past["in_force"]["rpm"]) == (True, "acme", {"value": 60, "from": "tenant"})
    now = operator.reads("policy-at", "--time", "0", "--prefix", prefix)
    assert (now["usable"], now["reason"], now["in_force"]["rpm"]["value"]) == (False, "tenant_disabled", 9)
    assert "no: tenant_disabled" in operator.does("policy-at", "--time", "0", "--tenant", "acme", "--prefix", "laptop")


def test_a_time_before_the_first_change_is_an_error_with_that_time(operator: Operator, prefix: str) -> None:
    year = datetime.now(UTC).year
    assert f"recorded since {year}" in operator.fails("policy-at", "--time", "2020-01-01", "--prefix", prefix)
