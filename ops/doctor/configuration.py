"""The settings, and the file they come from."""

from __future__ import annotations

import stat
from difflib import get_close_matches
from pathlib import Path

from gateway.settings import Settings
from ops.doctor.check import Check, ok, warning
from ops.host import env_file as env_files

_ALIKE = 0.85


def check(settings: Settings, env_file: Path | None) -> list[Check]:
    """The settings are valid, or nobody would have come here; the file may still be open to others or misspelled."""
    if env_file is None:
        return [ok("settings", "valid; from the environment and the defaults, there is no env file")]
    checks = [ok("settings", f"valid; from {env_file} and the environment")]
    if env_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        checks.append(
            warning("env file", f"{env_file} holds passwords and others may read it", f"chmod 600 {env_file}")
        )
    else:
        checks.append(ok("env file", "only its owner may read it"))
    known = [name.upper() for name in type(settings).model_fields]
    for name in env_files.read(env_file):
        near = get_close_matches(name.upper(), known, n=1, cutoff=_ALIKE)
        if near and name.upper() not in known:
            checks.append(warning("env file", f"{name} is no setting", f"write {near[0]}, if that is what is meant"))
    return checks
