"""Checks the settings and the file they come from."""

from __future__ import annotations

import stat
from difflib import get_close_matches
from pathlib import Path

from gateway.settings import Settings
from ops.doctor.check import Check, ok, warning
from ops.host import env_file as env_files

_SIMILARITY_MIN = 0.85


def check(settings: Settings, env_file: Path | None) -> list[Check]:
    """Checks the mode of the env file and the names in it. The settings themselves have been validated by now."""
    if env_file is None:
        return [ok("settings", "valid; from the environment and the defaults, without an env file")]
    checks = [ok("settings", f"valid; from {env_file} and the environment")]
    if env_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        checks.append(
            warning("env file", f"{env_file} holds passwords and other users can read it", f"chmod 600 {env_file}")
        )
    else:
        checks.append(ok("env file", "only its owner can read it"))
    known = [name.upper() for name in type(settings).model_fields]
    for name in env_files.read(env_file):
        similar = get_close_matches(name.upper(), known, n=1, cutoff=_SIMILARITY_MIN)
        if similar and name.upper() not in known:
            checks.append(warning("env file", f"unknown setting {name}", f"rename it if you mean {similar[0]}"))
    return checks
