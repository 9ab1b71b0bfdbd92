"""export prints what apply reads, and apply shows the difference before it changes anything."""

from __future__ import annotations

import asyncio
from pathlib import Path
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
from tests.yaml_text import load_yaml

FILE = """
version: 1
tenants:
- name: acme
  limits: {rpm: 60}
  models: {names: [llama3.2]}
  keys:
  - name: laptop
    scopes: [chat]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(FILE)
    return path


def verifies(operator: Operator, created: dict[str, Any]) -> bool:
    async def verify() -> bool:
        settings = load(operator.env_file)
        database, hasher = Database(settings), KeyHasher.from_settings(settings)
        try:
            stored = await KeyRepository(database, Limits(1, 1, 1)).find_key(created["prefix"])
            return stored is not None and await hasher.verify(stored.hash, SecretStr(created["key"]))
        finally:
            hasher.close()
            await database.close()

    return asyncio.run(verify())


def test_a_dry_run_shows_the_difference_and_changes_nothing(operator: Operator, path: Path) -> None:
    shown = operator.does("apply", "-f", str(path), "--dry-run")
    assert shown.splitlines() == [
        "+ tenant acme: status active, rpm 60, allowed_models llama3.2:latest",
        "+ key laptop of acme: scopes chat, priority interactive",
    ]
    assert operator.reads("list-tenants") == []
    assert operator.reads("apply", "-f", str(path), "--dry-run")["applied"] is False


def test_a_created_key_is_printed_once_and_a_second_run_changes_nothing(operator: Operator, path: Path) -> None:
    applied = operator.reads("apply", "-f", str(path))
    (created,) = applied["keys"]
    assert (created["tenant"], created["name"], applied["applied"]) == ("acme", "laptop", True)
    assert verifies(operator, created)
    assert operator.does("apply", "-f", str(path)) == "nothing differs\n"
    assert operator.reads("apply", "-f", str(path)) == {"differences": [], "applied": True, "keys": []}
    assert created["key"] not in operator.does("export")


def test_an_exported_file_restores_the_prefixes_with_new_secrets(operator: Operator, path: Path) -> None:
    before = operator.reads("apply", "-f", str(path))["keys"][0]
    exported = operator.does("export")
    assert operator.reads("export") == load_yaml(exported) | operator.reads("export")
    operator.does("disable-tenant", "--name", "acme")
    operator.does("delete-tenant", "--name", "acme", "--yes")
    path.write_text(exported)
    lines = operator.does("apply", "-f", str(path)).splitlines()
    key = lines[-1].rpartition(" ")[2]
    assert parse(key) is not None
    assert (key[:12], key == before["key"]) == (before["prefix"], False)
    assert operator.does("export") == exported


def test_a_change_is_shown_with_both_values(operator: Operator, path: Path) -> None:
    operator.does("apply", "-f", str(path))
    path.write_text(FILE.replace("rpm: 60", "rpm: 90").replace("[chat]", "[chat, debug]"))
    assert operator.does("apply", "-f", str(path)).splitlines() == [
        "~ tenant acme: rpm 60 → 90",
        "~ key laptop of acme: scopes chat → chat, debug",
    ]
    assert {change["command"] for change in operator.reads("show-changes")} == {"apply"}


def test_an_unknown_field_is_refused_by_name(operator: Operator, path: Path) -> None:
    path.write_text(FILE.replace("rpm", "rmp"))
    assert operator.fails("apply", "-f", str(path)) == (
        "error: the policy file: tenants.0.limits.rmp is not a field of it\n"
    )
