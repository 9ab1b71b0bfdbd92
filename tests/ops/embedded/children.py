"""Trivial children for the supervisor, and the ways to wait for what they do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ops.embedded.child import Child
from ops.host.probes import Probe
from tests.polling import eventually

PATIENCE_S = 20.0

SERVE = "import pathlib, time; pathlib.Path(NAME + '.ready').touch(); time.sleep(600)"


def exists(path: Path) -> Probe:
    """Ready once `path` is there."""

    async def ready() -> bool:
        return path.exists()

    return ready


def child(directory: Path, name: str, code: str = SERVE, **changes: Any) -> Child:
    """A Python child that runs `code` in `directory` with `NAME` set; ready when it has touched `NAME.ready`."""
    description: dict[str, Any] = {
        "name": name,
        "argv": (sys.executable, "-I", "-c", f"NAME = {name!r}\n{code}"),
        "env": {},
        "cwd": directory,
        "log": directory / f"{name}.log",
        "ready": exists(directory / f"{name}.ready"),
        "stop_signal": signal.SIGTERM,
        "stop_grace_s": PATIENCE_S,
        "start_timeout_s": PATIENCE_S,
    }
    return Child(**{**description, **changes})


def wait_until_ended(pids: Iterable[int]) -> None:
    """Returns once none of the processes runs. Raises AssertionError for one that goes on."""
    for pid in pids:
        eventually(lambda pid=pid: not is_running(pid), failure=f"process {pid} still runs")  # type: ignore[misc]


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie (its new parent may be slow to notice)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
