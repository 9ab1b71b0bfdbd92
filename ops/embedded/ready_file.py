"""The file from which other programs read the addresses and the process ids of a ready stack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ops.host import env_file

Pids = Mapping[str, int]


@dataclass(frozen=True)
class Endpoints:
    """The addresses and paths of a ready stack. `tls_url` is None without Caddy."""

    url: str
    tls_url: str | None
    env_file: Path
    state_dir: Path


def render(endpoints: Endpoints, pids: Pids) -> str:
    """Returns the content of the file, one JSON object."""
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
    """Replaces the file atomically."""
    env_file.write(path, render(endpoints, pids) + "\n")
