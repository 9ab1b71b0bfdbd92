"""The file that tells other programs where a ready stack is and which processes it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ops.host import env_file

Pids = Mapping[str, int]


@dataclass(frozen=True)
class Endpoints:
    """Where a ready stack answers; `tls_url` is None without Caddy."""

    url: str
    tls_url: str | None
    env_file: Path
    state_dir: Path


def render(endpoints: Endpoints, pids: Pids) -> str:
    """The file's content: one JSON object."""
    return json.dumps(
        {
            "url": endpoints.url,
            "tls_url": endpoints.tls_url,
            "env_file": str(endpoints.env_file),
            "state_dir": str(endpoints.state_dir),
            "pids": dict(pids),
        }
    )


def write(path: Path, endpoints: Endpoints, pids: Pids) -> None:
    """Replaces the file in one step."""
    env_file.write(path, render(endpoints, pids) + "\n")
