"""How commands find the gateway, and what they report when it does not run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ops.cli import cli
from ops.embedded.state import open_state
from tests.ops.cli.conftest import Operator, write_env

UNREACHABLE = "postgresql://app@127.0.0.1:1/db"


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of state directories of an operator whose working directory and environment name no env file."""
    monkeypatch.delenv("GATEWAY_ENV_FILE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "state"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="neuronetz-gateway")


def state_of_up(root: Path, url: str) -> Path:
    """The state directory of an `up` that is stopped; returns its env file."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open_state(root) as state:
        return write_env(state.env_file, url)


def test_without_an_env_file_the_default_state_directory_is_used_and_named(state_home: Path, database_url: str) -> None:
    env_file = state_of_up(state_home / "neuronetz-gateway", database_url)
    result = run("list-tenants", "--json")
    assert (result.exit_code, result.stdout) == (0, "[]\n"), result.output
    assert result.stderr.startswith(f"note: using {env_file};")
    assert result.stderr.count("\n") == 1


def test_an_env_file_in_the_working_directory_comes_first(state_home: Path, database_url: str) -> None:
    state_of_up(state_home / "neuronetz-gateway", UNREACHABLE)
    write_env(Path(".env"), database_url)
    result = run("list-tenants", "--json")
    assert (result.exit_code, result.stderr) == (0, "")


def test_settings_of_the_environment_are_not_mixed_with_those_of_the_state_directory(
    state_home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_of_up(state_home / "neuronetz-gateway", UNREACHABLE)
    monkeypatch.setenv("DATABASE_URL", database_url)
    result = run("list-tenants", "--json")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_env_file_may_follow_the_command_and_wins_there(tmp_path: Path, database_url: str) -> None:
    good, bad = write_env(tmp_path / "good", database_url), write_env(tmp_path / "bad", UNREACHABLE)
    assert run("list-tenants", "--json", "--env-file", str(good)).stdout == "[]\n"
    assert run("--env-file", str(bad), "list-tenants", "--env-file", str(good), "--json").stdout == "[]\n"


def test_a_stopped_up_is_named_with_the_command_that_starts_it(tmp_path: Path, state_home: Path) -> None:
    chosen = tmp_path / "my state"
    env_file = state_of_up(chosen, UNREACHABLE)
    for command in ("list-tenants", "list-models"):
        assert Operator(env_file).fails(command) == (
            f"error: the gateway of {chosen} is not running; "
            f"start it with: neuronetz-gateway up --state-dir '{chosen}'\n"
        )
    state_of_up(state_home / "neuronetz-gateway", UNREACHABLE)
    result = run("list-tenants")
    assert result.stderr.endswith(" is not running; start it with: neuronetz-gateway up\n")


def test_doctor_reports_a_stopped_up_instead_of_every_part_of_it(tmp_path: Path) -> None:
    env_file = state_of_up(tmp_path / "state", UNREACHABLE)
    result = Operator(env_file).run("doctor")
    assert result.exit_code == 1
    (failure,) = [line for line in result.stdout.splitlines() if line.startswith("failed")]
    assert failure.endswith(f"-> neuronetz-gateway up --state-dir {tmp_path / 'state'}")


def test_an_unreachable_store_of_a_running_up_is_not_called_stopped(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        env_file = write_env(state.env_file, UNREACHABLE)
        assert "PostgreSQL cannot be reached" in Operator(env_file).fails("list-tenants")


def test_mistakes_in_an_env_file_are_one_note_each(tmp_path: Path, database_url: str) -> None:
    env_file = write_env(tmp_path / "env", database_url, ["DEFAULT_RMP=5", *["this is prose"] * 9])
    result = Operator(env_file).run("list-tenants", "--json")
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    unreadable, misspelt = result.stderr.splitlines()
    assert unreadable == f"note: {env_file} has lines that are not NAME=value: 8, 9, 10, 11, 12, …"
    assert misspelt == "note: there is no setting DEFAULT_RMP; did you mean DEFAULT_RPM?"
