"""The commands `up` and `demo` as an operator runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from ops.cli import cli
from ops.embedded.state import open_state
from tests.e2e.stack import simulator
from tests.ops.cli.conftest import Operator
from tests.ops.embedded.children import is_running, wait_until_ended
from tests.polling import eventually

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


def _error(*arguments: str) -> str:
    """Runs a command that fails and returns its last line on stderr."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def test_a_second_up_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with open_state(tmp_path / "state"):
        error = _error("up", "--state-dir", str(tmp_path / "state"))
    expected = f"error: another stack is already running on the state directory {tmp_path / 'state'}; stop it first"
    assert error.startswith(expected)


def test_the_error_for_a_port_in_use_names_the_option(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        taken = f"{LOOPBACK}:{listener.getsockname()[1]}"
        error = _error("up", "--state-dir", str(tmp_path / "state"), "--listen", taken)
    assert error == f"error: --listen {taken}: another program already listens there"


def test_an_invalid_setting_in_the_env_file_is_named(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        state.env_file.write_text("DEFAULT_RPM=often\n")
    error = _error("up", "--state-dir", str(tmp_path / "state"), "--listen", f"{LOOPBACK}:0")
    assert error.startswith("error: DEFAULT_RPM='often': ")


def test_a_missing_ca_file_of_a_backend_is_named(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        state.env_file.write_text('OLLAMA_BACKENDS=[{"name":"far","base_url":"https://h","ca_file":"/nowhere.pem"}]\n')
    error = _error("up", "--state-dir", str(tmp_path / "state"), "--listen", f"{LOOPBACK}:0")
    assert error.startswith("error: OLLAMA_BACKENDS: the ca_file /nowhere.pem of far cannot be used: ")


@pytest.mark.parametrize(
    "arguments", [("--listen", "nowhere"), ("--backend", "http://a"), ("--backend", "A=http://a"), ("--workers", "0")]
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["up", "--state-dir", str(tmp_path / "state"), *arguments]).exit_code == 2
    assert not (tmp_path / "state").exists()


def _cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *arguments]


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@contextmanager
def _up(state_dir: Path, ready_file: Path, backend: str) -> Iterator[subprocess.Popen[str]]:
    options = ("--listen", f"{LOOPBACK}:0", "--tls", f"{LOOPBACK}:0", "--backend", f"sim={backend}", "--workers", "1")
    command = _cli("up", "--state-dir", str(state_dir), "--ready-file", str(ready_file), *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: ready_file.exists() or process.poll() is not None, START_TIMEOUT_S)
            assert process.poll() is None
            yield process
        finally:
            process.kill()


def test_the_demo_verifies_itself_and_up_reuses_its_state(tmp_path: Path) -> None:
    # Too deep for the paths of the sockets.
    state_dir = tmp_path / ("deep" * 25)
    demo = subprocess.run(
        _cli("demo", "--once", "--state-dir", str(state_dir)), capture_output=True, text=True, timeout=300, check=False
    )
    assert demo.returncode == 0, demo.stderr
    rows = re.findall(r"complete +(\d+) +(\d+) +(\d+) +(\d+) +exact\b", demo.stdout)
    assert len(rows) == 2
    assert all(ours == theirs and int(ours) > 0 for row in rows for ours, theirs in (row[:2], row[2:]))
    assert re.search(r"^export GATEWAY_API_KEY=nz_\w+$", demo.stdout, re.MULTILINE)

    ready_file = tmp_path / "ready.json"
    with simulator() as backend, _up(state_dir, ready_file, backend.url) as process:
        ready = _read(ready_file)
        assert process.stdout is not None
        assert process.stdout.readline() == f"ready {ready['url']}\n"
        assert set(ready["pids"]) == {
            *("postgres", "redis", "authz-0", "meter-0", "control", "envoy", "caddy"),
        }
        assert (ready["env_file"], ready["state_dir"]) == (str(state_dir / ".env"), str(state_dir))
        authority = ssl.create_default_context(cafile=state_dir / "caddy-root.crt")
        assert httpx.get(f"{ready['tls_url']}/readyz", verify=authority).status_code == 200

        operator = Operator(Path(ready["env_file"]))
        assert [tenant["name"] for tenant in operator.reads("list-tenants")] == ["demo"]
        status = operator.reads("status")
        assert (status["running"], status["url"], status["tls_url"]) == (True, ready["url"], ready["tls_url"])
        assert status["processes"] == {"up": process.pid, **ready["pids"]}
        assert status["requests"] == {"running": 0, "held_tokens": 0}

        before = ready["pids"]["control"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: _read(ready_file)["pids"]["control"] != before, STOP_TIMEOUT_S)
        after = _read(ready_file)["pids"]["control"]
        assert is_running(after)

        temporary = (state_dir / "tmp").readlink()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0
    wait_until_ended([after, *ready["pids"].values()])
    assert not ready_file.exists()
    assert not temporary.exists()
