from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway import __version__
from gateway.settings import Settings
from ops.cli import PANELS, cli
from ops.cli.examples import EXAMPLES
from ops.host.client_environment import base_url
from tests.ops.cli.conftest import Operator, write_env


@pytest.fixture
def stranger(tmp_path: Path) -> Operator:
    """An operator whose database is unreachable."""
    return Operator(write_env(tmp_path / "env", "postgresql://app:s3cret@127.0.0.1:1/db"))


def test_the_program_runs_as_a_module_and_prints_its_version() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ops.cli", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout == f"neuronetz-gateway {__version__}\n"


def test_every_command_has_help(stranger: Operator) -> None:
    commands = [[], *([name] for names in PANELS.values() for name in names)]
    results = {
        " ".join(line): stranger.run(*line)
        for line in ([*command, option] for command in commands for option in ("-h", "--help"))
    }
    assert [
        (line, result.output)
        for line, result in results.items()
        if (result.exit_code, result.stderr) != (0, "") or "Usage: neuronetz-gateway" not in result.stdout
    ] == []


def test_the_help_shows_keywords_as_they_must_be_typed(stranger: Operator) -> None:
    assert "N|inherit" in stranger.does("set-limits", "-h")
    assert "90d|DATE" in stranger.does("create-key", "-h")
    assert "24h" in stranger.does("rotate-key", "-h").split("[default")[0]


def test_every_command_that_prints_data_takes_json() -> None:
    without = {"connect", "up", "demo", "run", "drain-envoy", "simulate-ollama"}
    context = cli.make_context("neuronetz-gateway", ["list-keys"])
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        flags = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in flags) == (name not in without), name


def test_the_error_for_an_unreachable_postgresql_is_one_line_without_the_password(
    stranger: Operator,
) -> None:
    sentence = stranger.fails("list-keys")
    assert "cannot be reached" in sentence
    assert "s3cret" not in sentence
    assert "cannot be reached" in stranger.fails("migrate", "--json")


def test_an_unreachable_store_without_an_env_file_suggests_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_ENV_FILE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@127.0.0.1:1/db")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["list-tenants"], prog_name="neuronetz-gateway")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--env-file or GATEWAY_ENV_FILE" in result.stderr


@pytest.mark.parametrize("url", ["mysql://app:s3cret@h/db", "postgresql://app:s3cret@[h/db", "s3cret"])
def test_the_error_for_an_invalid_database_url_is_one_line_without_its_value(tmp_path: Path, url: str) -> None:
    sentence = Operator(write_env(tmp_path / "env", url)).fails("list-tenants")
    assert "DATABASE_URL" in sentence
    assert "s3cret" not in sentence


def test_the_error_for_an_invalid_setting_names_it(tmp_path: Path) -> None:
    operator = Operator(write_env(tmp_path / "env", "postgresql://h/db", ["DEFAULT_RPM=many"]))
    assert "DEFAULT_RPM='many'" in operator.fails("list-tenants")


def test_the_error_for_a_missing_env_file_names_it(tmp_path: Path) -> None:
    assert "nowhere" in Operator(tmp_path / "nowhere").fails("list-tenants")


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["create-tennant"], "'create-tennant'. Did you mean create-tenant"),
        (["list-tenant"], "Did you mean list-tenants"),
        (["usage"], "Did you mean show-usage?"),
        (["backends"], "list-backends"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["create-tenant", "acme"], "Unexpected argument 'acme'. Did you mean --name acme?"),
        (["revoke-key", "--reason", "x", "nz_1234"], "Did you mean --prefix nz_1234?"),
        (["create-tenant", "--nmae", "acme"], "Did you mean '--name'?"),
    ],
)
def test_wrong_usage_suggests_what_may_be_meant(stranger: Operator, arguments: list[str], suggestion: str) -> None:
    assert suggestion in stranger.misuses(*arguments)


def test_the_help_of_every_command_has_examples_that_its_parser_accepts() -> None:
    context = cli.make_context("neuronetz-gateway", ["list-keys"])
    assert EXAMPLES.keys() == set(cli.list_commands(context))
    for name, examples in EXAMPLES.items():
        command = cli.get_command(context, name)
        assert command is not None
        for example in examples:
            called, *arguments = shlex.split(example)
            assert called == name
            options, rest, _ = command.make_parser(click.Context(command)).parse_args(arguments)
            assert rest == []
            required = {parameter.name for parameter in command.params if parameter.required}
            assert required <= {each for each, value in options.items() if value is not None}, example


def test_draining_fails_when_no_envoy_answers(tmp_path: Path) -> None:
    env = write_env(tmp_path / "env", "postgresql://h/db", ["ENVOY_ADMIN_LISTEN=127.0.0.1:1"])
    assert "no Envoy answers at 127.0.0.1:1" in Operator(env).fails("drain-envoy")


def test_the_error_for_a_missing_schema_names_the_command_that_fixes_it(
    tmp_path: Path, empty_database_url: str
) -> None:
    operator = Operator(write_env(tmp_path / "env", empty_database_url))
    assert "neuronetz-gateway migrate" in operator.fails("list-tenants")
    assert operator.reads("migrate") == {"revision": "0011", "service_role": None}
    assert operator.does("migrate") == "the database is at revision 0011\n"
    assert operator.reads("list-tenants") == []


def test_pruning_an_empty_database_drops_nothing(operator: Operator) -> None:
    assert operator.reads("prune") == {"audit_partitions": [], "audit_links": 0, "prompts": 0}
    assert "none" in operator.does("prune")


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"gateway_bind_host": "::", "gateway_bind_port": 80}, "http://[::1]:80"),
        ({"gateway_bind_host": "10.0.0.7"}, "http://10.0.0.7:8080"),
        ({"gateway_domain": "llm.example.org"}, "https://llm.example.org"),
    ],
)
def test_the_base_url_is_an_address_that_clients_can_reach(values: dict[str, object], url: str) -> None:
    assert base_url(Settings.model_validate(values)) == url
