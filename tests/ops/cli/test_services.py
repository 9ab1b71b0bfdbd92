"""`run` and `simulate-ollama`: what keeps a service from starting is one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def taken() -> Iterator[str]:
    """An address of this machine on which somebody listens already."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def said_by(*arguments: str, **settings: str) -> str:
    """What the command that fails to start says at last. (gRPC writes a line of its own before.)"""
    result = subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        env={**os.environ, "DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"} | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, ""), result
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("service", "setting"),
    [("authz", "AUTHZ_HTTP_LISTEN"), ("meter", "METER_GRPC_LISTEN")],
)
def test_a_service_whose_address_is_taken_says_so(taken: str, service: str, setting: str) -> None:
    said = said_by("run", service, **{setting: taken})
    assert said.startswith(f"error: cannot listen on {taken}: ")


def test_a_service_whose_socket_has_no_directory_says_so(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/gone/meter.sock"
    assert said_by("run", "meter", METER_GRPC_LISTEN=listen).startswith(f"error: cannot listen on {listen}: ")


def test_a_control_that_cannot_write_envoys_files_names_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = said_by("run", "control", ENVOY_CONFIG_DIR=str(tmp_path / "file" / "envoy"))
    assert said == f"error: {tmp_path}/file/envoy: Not a directory"


def test_a_simulated_ollama_whose_address_is_taken_says_so(taken: str) -> None:
    assert said_by("simulate-ollama", "--listen", taken).startswith(f"error: {taken}: ")
