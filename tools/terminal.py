"""Runs a program on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from termios import TIOCSWINSZ

_LINES = 24
_READ_BYTES = 65_536


def run_on_terminal(arguments: Sequence[str], columns: int, env: Mapping[str, str]) -> str:
    """What a program writes to stdout and stderr on a terminal of `columns` columns with 256 colours, escapes included.

    The environment is that of this process with `env`, without NO_COLOR and COLUMNS.
    """
    terminal, program = pty.openpty()
    ioctl(program, TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen(  # noqa: S603
        arguments, stdout=program, stderr=program, env={**inherited, "TERM": "xterm-256color", **env}
    ) as process:
        os.close(program)
        output = b""
        try:
            while chunk := os.read(terminal, _READ_BYTES):
                output += chunk
        except OSError:
            # Linux reports EIO when the last writer has closed the terminal.
            process.wait()
        os.close(terminal)
    return output.decode().replace("\r\n", "\n")
