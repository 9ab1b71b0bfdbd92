from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import redis_server
from tests.ops.cli.conftest import Operator, write_env

SECRETS = ("pg-s3cret", "redis-s3cret", "backend-s3cret")


def examine(operator: Operator) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code and the checks by name; nothing else is printed, and no secret."""
    result = operator.run("doctor", "--json")
    assert result.stderr == ""
    assert not any(secret in result.stdout for secret in SECRETS)
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(result.stdout):
        assert check.keys() == {"name", "status", "detail", "remedy"}
        assert bool(check["remedy"]) == (check["status"] != "ok")
        checks.setdefault(check["name"], []).append(check)
    return result.exit_code, checks


def status(checks: dict[str, list[dict[str, Any]]], name: str) -> list[str]:
    return [check["status"] for check in checks[name]]


@pytest.fixture
def unreachable(tmp_path: Path) -> list[str]:
    """Settings with which everything but the stores is unreachable."""
    token = json.dumps([{"name": "near", "base_url": "http://127.0.0.1:1", "auth_token": "backend-s3cret"}])
    targets = ["AUTHZ_GRPC", "AUTHZ_HTTP", "METER_GRPC"]
    return [
        f"OLLAMA_BACKENDS={token}",
        *(f"{name}_TARGETS=unix:{tmp_path}/{name}.sock" for name in targets),
        f"ENVOY_CONFIG_DIR={tmp_path}/envoy",
        f"ENVOY_ADMIN_LISTEN=unix:{tmp_path}/admin.sock",
        "GATEWAY_BIND_PORT=1",
    ]


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A server that evicts and does not persist."""
    with redis_server.one_server("--maxmemory-policy", "allkeys-lru") as server:
        yield server.url


def test_every_unreachable_part_is_reported_with_a_remedy(tmp_path: Path, unreachable: list[str]) -> None:
    url = "postgresql://app:pg-s3cret@127.0.0.1:1/db"
    env_file = write_env(tmp_path / "env", url, [*unreachable, "REDIS_URL=redis://:redis-s3cret@127.0.0.1:1/0"])
    env_file.chmod(0o644)
    code, checks = examine(Operator(env_file))
    assert code == 1
    for name in ("postgresql", "redis", "backend near", "catalog", "authz", "authz http", "meter", "listener"):
        assert status(checks, name) == ["failed"], name
    assert status(checks, "envoy") == ["failed", "failed"]
    assert status(checks, "env file") == ["warning"]
    result = Operator(env_file).run("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[-1].endswith(" failed")
    assert all(line.startswith(("ok", "warning", "failed")) for line in lines[:-1])
    assert not any(secret in result.stdout for secret in SECRETS)


def test_a_missing_schema_and_missing_keys_name_the_commands_to_run(
    tmp_path: Path, unreachable: list[str], empty_database_url: str
) -> None:
    operator = Operator(write_env(tmp_path / "env", empty_database_url, unreachable))
    _, checks = examine(operator)
    assert status(checks, "postgresql") == ["ok"]
    assert [check["remedy"] for check in checks["schema"]] == ["neuronetz-gateway migrate"]
    operator.does("migrate")
    _, checks = examine(operator)
    assert status(checks, "schema") == ["ok"]
    assert "create-tenant" in checks["keys"][0]["remedy"]
    operator.does("create-tenant", "--name", "t")
    operator.does("create-key", "--tenant", "t", "--name", "k")
    _, checks = examine(operator)
    assert status(checks, "keys") == ["ok"]


def test_a_redis_that_evicts_or_does_not_persist_is_reported(
    tmp_path: Path, unreachable: list[str], redis_url: str
) -> None:
    env_file = write_env(tmp_path / "env", "postgresql://h/db", unreachable)
    env_file.write_text(env_file.read_text().replace("redis://127.0.0.1:1/0", redis_url))
    _, checks = examine(Operator(env_file))
    assert status(checks, "redis") == ["failed", "warning"]
    assert "no catalog published" in checks["catalog"][0]["detail"]


def test_invalid_settings_are_the_only_finding(tmp_path: Path) -> None:
    code, checks = examine(Operator(write_env(tmp_path / "env", "postgresql://h/db", ["DEFAULT_RPM=many"])))
    assert (code, list(checks)) == (1, ["settings"])
    assert "DEFAULT_RPM='many'" in checks["settings"][0]["detail"]


def test_models_cannot_be_listed_without_redis_or_for_an_unknown_tenant(operator: Operator) -> None:
    assert "Redis does not answer" in operator.fails("list-models")
    assert "there is no tenant named absent" in operator.fails("list-models", "--tenant", "absent")
