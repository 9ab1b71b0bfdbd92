"""The files from which other programs read the addresses and the process ids of a ready stack.

`--ready-file` names one of them. The state directory has the other one, which `status` reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway import __version__
from ops.embedded import state
from ops.embedded.state import StateDirectory
from ops.host import env_file

Pids = Mapping[str, int]


@dataclass(frozen=True)
class Endpoints:
    """The addresses and paths of a ready stack. `tls_url` is None without Caddy."""

    url: str
    tls_url: str | None
    env_file: Path
    state_dir: Path


def document(endpoints: Endpoints, pids: Pids) -> dict[str, Any]:
    """Returns the content of the file of `--ready-file`."""
    return {
        "url": endpoints.url,
        "tls_url": endpoints.tls_url,
        "env_file": str(endpoints.env_file),
        "state_dir": str(endpoints.state_dir),
        "pids": dict(pids),
    }


def write(path: Path, endpoints: Endpoints, pids: Pids) -> None:
    """Replaces the file of `--ready-file` atomically."""
    env_file.write(path, json.dumps(document(endpoints, pids)) + "\n")


def write_running(state: StateDirectory, endpoints: Endpoints, pids: Pids, started_at: datetime) -> None:
    """Replaces the file of the state directory, which also has the version and the process id of this program."""
    more = {"version": __version__, "pid": os.getpid(), "started_at": started_at.isoformat()}
    env_file.write(state.running, json.dumps({**document(endpoints, pids), **more}) + "\n")


def read_running(root: Path) -> dict[str, Any] | None:
    """Returns what `write_running` wrote, None unless the stack of this state directory runs and is ready."""
    directory = StateDirectory(root)
    if not state.is_in_use(root) or not directory.running.exists():
        return None
    content: dict[str, Any] = json.loads(directory.running.read_text(encoding="utf-8"))
    return content
