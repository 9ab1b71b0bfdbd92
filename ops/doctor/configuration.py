"""Checks the settings and the file they come from."""

from __future__ import annotations

import stat
from pathlib import Path

from gateway.settings import misspelt_names
from ops.doctor.check import Check, ok, warning


def check(env_file: Path | None) -> list[Check]:
    """Checks the mode of the env file and the names in it. The settings themselves have been validated by now."""
    misspelt = [
        warning("settings", f"unknown setting {name}", f"rename it if you mean {meant}")
        for name, meant in misspelt_names(env_file).items()
    ]
    if env_file is None:
        return [ok("settings", "valid; from the environment and the defaults, without an env file"), *misspelt]
    checks = [ok("settings", f"valid; from {env_file} and the environment"), *misspelt]
    if env_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        checks.append(
            warning("env file", f"{env_file} holds passwords and other users can read it", f"chmod 600 {env_file}")
        )
    else:
        checks.append(ok("env file", "only its owner can read it"))
    return checks
