"""Virtual environments under `build/` for programs whose packages the product must not have."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from bench.sides.side import BenchFailed
from bench.sides.upstream import ROOT

_INSTALL_TIMEOUT_S = 900.0


def environment(name: str, lock: Path) -> Path:
    """The directory of the programs of an environment with exactly the packages of `lock`, which it creates if needed.

    Raises BenchFailed if they cannot be installed.
    """
    directory = ROOT / "build/bench" / name
    installed = directory / "installed.lock"
    if installed.exists() and installed.read_text() == lock.read_text():
        return directory / "bin"
    venv.create(directory, clear=True, with_pip=True)
    command = [str(directory / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--requirement", str(lock)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"{lock.name} was not installed within {_INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise BenchFailed(f"{lock.name} could not be installed: {done.stderr.strip()[-300:]}")
    installed.write_text(lock.read_text())
    return directory / "bin"
