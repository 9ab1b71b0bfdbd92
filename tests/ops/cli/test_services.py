"""`run` and `simulate-ollama` report why a service cannot start in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked_program import ForkedProgram


@pytest.fixture
def used_address() -> Iterator[str]:
    """A local address that is already in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def last_line_of(directory: Path, *arguments: str, **settings: str) -> str:
    """The last line of the output of a command that must fail. (gRPC may write a line before it.)"""
    stores = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    output = directory / "output"
    program = ForkedProgram("ops.cli", *arguments, output=output, env={**os.environ, **stores, **settings})
    assert program.wait(60) == 1, output.read_text()
    assert "Traceback" not in output.read_text()
    return output.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("service", "setting"),
    [("authz", "AUTHZ_HTTP_LISTEN"), ("meter", "METER_GRPC_LISTEN")],
)
def test_the_error_for_an_address_in_use_names_it(
    used_address: str, tmp_path: Path, service: str, setting: str
) -> None:
    error = last_line_of(tmp_path, "run", service, **{setting: used_address})
    assert error == f"error: cannot listen on {used_address}: address already in use"


def test_the_error_for_a_socket_in_a_missing_directory_names_it(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/gone/meter.sock"
    error = last_line_of(tmp_path, "run", "meter", METER_GRPC_LISTEN=listen)
    assert error == f"error: cannot listen on {listen}: no such file or directory"


def test_the_error_for_an_unwritable_envoy_config_dir_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    """In a separate process, so that the error is seen to be on stderr and nothing on stdout."""
    stores = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    result = subprocess.run(
        [sys.executable, "-m", "ops.cli", "run", "control"],
        env={**os.environ, **stores, "ENVOY_CONFIG_DIR": str(tmp_path / "file" / "envoy")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, ""), result
    assert result.stderr.splitlines()[-1] == f"error: {tmp_path}/file/envoy: Not a directory"
    assert "Traceback" not in result.stderr


def test_the_simulated_ollama_names_an_address_in_use(used_address: str) -> None:
    command = [sys.executable, "-m", "ops.cli", "simulate-ollama", "--listen", used_address]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (1, ""), result
    assert result.stderr.startswith(f"error: {used_address}: ")
    assert result.stderr.count("\n") == 1
