"""Directories that the tests make once in a run, by the first worker that needs one, and then share or copy."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

# The workers inherit it from the process that runs pytest.
_VARIABLE = "TEST_TEMPLATES"


@cache
def root() -> Path:
    """The parent of all templates. The first process of a run that calls this creates it, and removes it at its end."""
    if _VARIABLE not in os.environ:
        created = temporary("nz-templates", memory() or tempfile.gettempdir())
        # The user that PostgreSQL runs as must reach what is below.
        created.chmod(0o711)
        os.environ[_VARIABLE] = str(created)
    return Path(os.environ[_VARIABLE])


def temporary(name: str, parent: str) -> Path:
    """Creates a directory in `parent` that this process removes at its end.

    Removes those of processes that were killed, which would occupy the memory until a restart. Their names have the
    process id.
    """
    for directory in Path(parent).glob(f"{name}-*-*"):
        pid = directory.name.removeprefix(f"{name}-").partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(directory, ignore_errors=True)
    created = tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=parent)
    atexit.register(shutil.rmtree, created, ignore_errors=True)
    return Path(created)


def template(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name`, whose content `make` creates once in a run, while other workers wait. Only read it."""
    complete, partial = root() / name, root() / f"{name}.partial"
    with (root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            partial.chmod(0o711)
            make(partial)
            partial.rename(complete)
    return complete


def copy(source: Path, target: Path) -> None:
    """Copies the content of a template into the directory `target`, with its modes and owners."""
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def memory(free_bytes_min: int = 0) -> str | None:
    """Returns a directory in memory with executable files and this free space, where one exists.

    A disk takes several times as long for the files of a database.
    """
    shm = "/dev/shm"  # noqa: S108
    if not os.access(shm, os.W_OK):
        return None
    found = os.statvfs(shm)
    usable = not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= free_bytes_min
    return shm if usable else None
