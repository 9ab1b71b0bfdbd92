"""Starts and stops the measured programs, as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
# High limits, so that no request is refused.
_LIMITS = {"DEFAULT_RPM": "100000000", "DEFAULT_TPM": "100000000000", "DEFAULT_CONCURRENT": "10000"}
_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")


class BenchFailed(Exception):
    """The measurement is impossible. The message states the reason."""


@dataclass(frozen=True)
class MeasuredStack:
    """A gateway that answers at `url` for the simulated Ollama at `ollama_url`. `key` may use all its models."""

    url: str
    ollama_url: str
    key: str
    pids: Mapping[str, int]

    def cpu_us(self) -> dict[str, float]:
        """CPU time in µs of authz, meter and Envoy since their start, summed over the workers of each. See proc(5)."""
        cpu_us = dict.fromkeys(("authz", "meter", "envoy"), 0.0)
        for name, pid in self.pids.items():
            service = name.partition("-")[0]
            if service in cpu_us:
                # The program's name, in parentheses, may hold spaces. utime and stime are fields 14 and 15.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu_us[service] += (int(fields[11]) + int(fields[12])) * _TICK_US
        return cpu_us


@contextmanager
def running(workers: int) -> Iterator[MeasuredStack]:
    """Runs the whole stack in a temporary directory, with `workers` workers each of authz and meter.

    Raises BenchFailed if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="neuronetz-bench-") as directory, _ollama() as ollama_url:
        root = Path(directory)
        with _up(root, ollama_url, workers) as ready:
            _command(ready, "create-tenant", "--name", "bench", "--allow-all-models")
            created = _command(ready, "create-key", "--tenant", "bench", "--name", "bench")
            yield MeasuredStack(ready["url"], ollama_url, created["key"], ready["pids"])


@contextmanager
def _ollama() -> Iterator[str]:
    command = [sys.executable, "-m", "ops.simulator", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (our own program)
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise BenchFailed("the simulated Ollama did not start")
            yield url
        finally:
            _stop(process)


@contextmanager
def _up(root: Path, ollama_url: str, workers: int) -> Iterator[dict[str, Any]]:
    ready_file, log_file = root / "ready.json", root / "up.log"
    command = [sys.executable, "-m", "ops.cli", "up", "--listen", "127.0.0.1:0", "--backend", f"bench={ollama_url}"]
    command += ["--state-dir", str(root / "state"), "--ready-file", str(ready_file)]
    command += ["--workers", str(workers)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **_LIMITS})  # noqa: S603
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchFailed(f"the gateway did not start:\n{log_file.read_text()}")
            time.sleep(0.05)
        yield json.loads(ready_file.read_text())
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _command(ready: Mapping[str, Any], *arguments: str) -> Any:
    command = [sys.executable, "-m", "ops.cli", "--env-file", ready["env_file"], *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)  # noqa: S603
    if done.returncode != 0:
        raise BenchFailed(f"{arguments[0]}: {done.stderr.strip()}")
    return json.loads(done.stdout)
