"""The real command line against the real database; Redis is away unless a test brings one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ops.cli import cli


class Operator:
    """Somebody with an env file who types commands."""

    def __init__(self, env_file: Path) -> None:
        self.env_file = env_file

    def run(self, *arguments: str) -> Result:
        """Runs one command, whatever comes of it."""
        return CliRunner().invoke(cli, ["--env-file", str(self.env_file), *arguments], prog_name="neuronetz-gateway")

    def does(self, *arguments: str) -> str:
        """What a command that works prints; nothing may stand on stderr."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def reads(self, *arguments: str) -> Any:
        """The JSON document that a command prints with `--json`, and nothing else."""
        return json.loads(self.does(*arguments, "--json"))

    def fails(self, *arguments: str) -> str:
        """The one sentence of a command that fails with exit code 1 and prints nothing."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    def misuses(self, *arguments: str) -> str:
        """What wrong usage prints to stderr, with exit code 2, as one line."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return " ".join(result.stderr.replace("│", " ").split())


def write_env(path: Path, url: str, lines: Sequence[str] = ()) -> Path:
    """An env file for that database with cheap hashing and a Redis that is away."""
    settings = ["ARGON2_TIME_COST=1", "ARGON2_MEMORY_COST_KIB=64", "ARGON2_PARALLELISM=1", "DATABASE_TIMEOUT_S=1"]
    path.write_text("\n".join([f"DATABASE_URL={url}", "REDIS_URL=redis://127.0.0.1:1/0", *settings, *lines]) + "\n")
    return path


@pytest.fixture
def operator(tmp_path: Path, database_url: str) -> Operator:
    """Somebody whose database has the schema and nothing in it."""
    return Operator(write_env(tmp_path / "env", database_url))
