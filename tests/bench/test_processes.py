from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.processes import children, cpu_us, pss_mb

CPU_S = 0.1
MEMORY_MB = 40
# A parent that does nothing, whose child works, prints a line and waits.
WORK = f"""
import sys, time
while time.process_time() < {CPU_S}: pass
memory = b"x" * {MEMORY_MB * 1_000_000}
print("ready", flush=True)
sys.stdin.read()
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {WORK!r}])"


@pytest.fixture(scope="module")
def parent() -> Iterator[int]:
    command = [sys.executable, "-S", "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid


def test_the_cpu_time_of_a_service_includes_its_descendants(parent: int) -> None:
    (child,) = children()[parent]
    spent_us = cpu_us({"both": [parent], "child": [child]})
    assert spent_us["child"] >= CPU_S * 1e6
    assert spent_us["both"] > spent_us["child"]


def test_the_memory_of_a_service_includes_its_descendants(parent: int) -> None:
    assert pss_mb({"both": [parent]})["both"] >= MEMORY_MB


def test_a_process_that_has_exited_counts_as_zero() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    assert cpu_us({"gone": [process.pid]}) == pss_mb({"gone": [process.pid]}) == {"gone": 0.0}
