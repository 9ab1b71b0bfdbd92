"""Trivial children for the tests of the supervisor, and functions that wait for their processes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ops.embedded.child import Child
from ops.host.probes import Probe
from tests.polling import eventually

TIMEOUT_S = 20.0

SERVE = "import pathlib, time; pathlib.Path(NAME + '.ready').touch(); time.sleep(600)"


def exists(path: Path) -> Probe:
    """Probes whether `path` exists."""

    async def ready() -> bool:
        return path.exists()

    return ready


def child(directory: Path, name: str, code: str = SERVE, **changes: Any) -> Child:
    """Describes a Python child that runs `code` in `directory` with `NAME` set.

    It is ready when it has created `NAME.ready`. `changes` replace fields of the description.
    """
    description: dict[str, Any] = {
        "name": name,
        "argv": (sys.executable, "-I", "-c", f"NAME = {name!r}\n{code}"),
        "env": {},
        "cwd": directory,
        "log": directory / f"{name}.log",
        "ready": exists(directory / f"{name}.ready"),
        "stop_signal": signal.SIGTERM,
        "stop_grace_s": TIMEOUT_S,
        "start_timeout_s": TIMEOUT_S,
    }
    return Child(**{**description, **changes})


def wait_until_ended(pids: Iterable[int]) -> None:
    """Returns when none of the processes runs. Raises AssertionError for one that still runs."""
    for pid in pids:
        eventually(lambda pid=pid: not is_running(pid), failure=f"process {pid} still runs")  # type: ignore[misc]


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie, which its new parent may be slow to reap."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
