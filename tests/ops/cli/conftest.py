"""The real command line with the real database. Redis is unreachable unless a test starts one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ops.cli import cli


class Operator:
    """Runs commands with one env file, and with `settings` in the environment."""

    def __init__(self, env_file: Path, settings: Mapping[str, str] | None = None) -> None:
        self.env_file = env_file
        self._settings = settings

    def run(self, *arguments: str) -> Result:
        """Runs one command and returns its result, success or not."""
        command = ["--env-file", str(self.env_file), *arguments]
        return CliRunner(env=self._settings).invoke(cli, command, prog_name="neuronetz-gateway")

    def does(self, *arguments: str) -> str:
        """The output of a command that must succeed and print nothing to stderr."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def reads(self, *arguments: str) -> Any:
        """The JSON document that a command prints with `--json`; it must print nothing else."""
        return json.loads(self.does(*arguments, "--json"))

    def fails(self, *arguments: str) -> str:
        """The error of a command that must fail with exit code 1, one line on stderr and nothing on stdout."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    def misuses(self, *arguments: str) -> str:
        """The usage error of a command, as one line; it must exit with 2 and print nothing to stdout."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return " ".join(result.stderr.replace("│", " ").split())


def write_env(path: Path, url: str, lines: Sequence[str] = ()) -> Path:
    """An env file for that database, with cheap hashing and an unreachable Redis."""
    settings = ["ARGON2_TIME_COST=1", "ARGON2_MEMORY_COST_KIB=64", "ARGON2_PARALLELISM=1", "DATABASE_TIMEOUT_S=1"]
    path.write_text("\n".join([f"DATABASE_URL={url}", "REDIS_URL=redis://127.0.0.1:1/0", *settings, *lines]) + "\n")
    return path


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output goes to a pipe. The workers of pytest-xdist set a width of 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def operator(tmp_path: Path, database_url: str) -> Operator:
    """An operator whose database has the schema and no rows."""
    return Operator(write_env(tmp_path / "env", database_url))
