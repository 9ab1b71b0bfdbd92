"""Executes a program that cannot outlive its supervisor, optionally as another user.

`command_line` returns a command that runs this file as a script. Python runs it isolated and with the standard library
only, so that it starts within a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # prctl(2)


def command_line(program: Sequence[str], user: tuple[int, int] | None) -> list[str]:
    """Returns the command that executes `program` as a child of this process.

    `user` is a pair of uid and gid, None for the current ones. Spawn it from the main thread: the kernel ties the
    child to the thread that spawned it (prctl(2)).
    """
    identity = "-" if user is None else f"{user[0]}:{user[1]}"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), identity, *program]


def main(argv: list[str]) -> None:
    """Drops privileges, ties the process to its parent and executes the program. Never returns."""
    supervisor, identity, *program = argv
    if identity != "-":
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    # Changing the user clears this setting, so it comes afterwards.
    end_with_parent(int(supervisor))
    os.umask(0o077)
    # Python ignores these signals, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execv(program[0], program)  # noqa: S606 (only the stack's own programs)
    except OSError as error:
        sys.exit(f"cannot execute {program[0]}: {error.strerror}")


def end_with_parent(parent_pid: int) -> None:
    """Lets the kernel kill this process when its parent dies. Exits if it has died already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The parent may have exited before prctl took effect.
    if os.getppid() != parent_pid:
        sys.exit("the supervisor has exited")


if __name__ == "__main__":
    main(sys.argv[1:])
