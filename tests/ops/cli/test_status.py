"""`status` and `logs` of a state directory. tests/ops/embedded/test_up.py runs them on a whole stack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.embedded import child_logs, logfile
from ops.embedded.state import StateDirectory, open_state
from tests.ops.cli.conftest import Operator, write_env

UNREACHABLE = "postgresql://app@127.0.0.1:1/db"
ERROR = '{"event": "gone", "level": "error", "timestamp": "2030-01-01T00:00:00Z"}'


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    with open_state(tmp_path / "state") as state:
        write_env(state.env_file, UNREACHABLE, [f"AUTHZ_GRPC_TARGETS=unix:{tmp_path}/none.sock"])
        state.log_file("authz-0").write_text(f'{{"event": "serving", "level": "info"}}\n{ERROR}\nlast \x1b[2J\n')
        state.log_file("envoy").write_text("one\ntwo\nthree\n")
        yield state


def test_a_stopped_gateway_is_reported_with_its_last_errors(state: StateDirectory, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    with open_state(stopped) as other:
        env_file = write_env(other.env_file, UNREACHABLE)
        other.log_file("meter-0").write_text(f"{ERROR}\n" * 9)
    result = Operator(env_file).run("status")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.startswith(f"the gateway of {stopped} is not running; start it with: neuronetz-gateway up ")
    assert result.stdout.count("meter-0 | ") == 3


def test_a_gateway_without_authz_does_not_run(state: StateDirectory) -> None:
    result = Operator(state.env_file).run("status", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    document = json.loads(result.stdout)
    assert (document["running"], document["requests"], document["started_at"]) == (False, None, None)
    assert [backend["answers"] for backend in document["backends"]] == [False]
    assert document["last_errors"] == [{"service": "authz-0", "text": ERROR}]


def test_logs_shows_the_last_lines_of_one_service_or_of_all(state: StateDirectory) -> None:
    operator = Operator(state.env_file)
    assert operator.does("logs", "envoy", "--lines", "2") == "two\nthree\n"
    assert operator.does("logs", "authz", "--lines", "1") == "last \\x1b[2J\n"
    assert operator.does("logs", "--lines", "1") == "authz-0 | last \\x1b[2J\nenvoy | three\n"
    assert operator.reads("logs", "envoy", "--lines", "1") == [{"service": "envoy", "text": "three"}]
    assert "choose one of authz-0, envoy" in operator.fails("logs", "meter")


def test_the_logs_of_a_gateway_without_up_are_elsewhere(tmp_path: Path) -> None:
    assert "journalctl" in Operator(write_env(tmp_path / "env", UNREACHABLE)).fails("logs")


def test_following_a_log_shows_each_complete_line_once_and_survives_trimming(state: StateDirectory) -> None:
    path = state.log_file("envoy")
    command = [sys.executable, "-m", "ops.cli", "--env-file", str(state.env_file), "logs", "envoy", "--follow"]
    with subprocess.Popen([*command, "--lines", "1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "three\n"
        with path.open("a") as log:
            log.write("four\nfi")
        assert process.stdout.readline() == "four\n"
        with path.open("a") as log:
            log.write("ve\n")
        assert process.stdout.readline() == "five\n"
        logfile.trim(path, bytes_max=0)
        with path.open("a") as log:
            log.write("six\n")
        assert process.stdout.readline() == "six\n"
        process.terminate()


@pytest.mark.parametrize(
    ("line", "is_error"),
    [
        (ERROR, True),
        ('{"level":"error","ts":1.0,"msg":"caddy"}', True),
        ('{"event": "x", "level": "warning"}', False),
        ("[2030-01-01 00:00:00.000][7][critical][main] [source/server/server.cc:1] out", True),
        ("2030-01-01 00:00:00.000 UTC [7] ERROR:  relation does not exist", True),
        ("2030-01-01 00:00:00.000 UTC [7] FATAL:  the database system is starting up", False),
        ("2030-01-01 00:00:00.000 UTC [7] LOG:  checkpoint complete", False),
    ],
)
def test_the_errors_of_every_part_are_recognised(state: StateDirectory, line: str, is_error: bool) -> None:
    state.log_file("redis").write_text(f"{line}\n")
    assert bool(child_logs.last_errors(state, ["redis"], 3)) == is_error
