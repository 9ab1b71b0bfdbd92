"""Becomes a program that cannot outlive its supervisor, as another user if asked.

`command` gives the line to run. The file runs itself then, isolated and with the standard library only, so that it
is there in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # prctl(2)


def command(program: Sequence[str], user: tuple[int, int] | None) -> list[str]:
    """What a process runs to have `program` as its child, as `user` (uid and gid; None: as it is).

    It must be spawned by the main thread: the kernel watches the thread that spawned, not the whole process.
    """
    identity = "-" if user is None else f"{user[0]}:{user[1]}"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), identity, *program]


def main(argv: list[str]) -> None:
    """Drops privileges, ties the process to its parent and executes the program; returns never."""
    supervisor, identity, *program = argv
    if identity != "-":
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    # A change of user clears the setting, hence only now.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The supervisor may have died before the line above took effect.
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor is gone")
    os.umask(0o077)
    # Python ignores these, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execv(program[0], program)  # noqa: S606 (the programs are the stack's own)
    except OSError as error:
        sys.exit(f"cannot execute {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
