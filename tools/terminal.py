"""Runs programs on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from signal import SIGINT
from termios import TIOCSWINSZ, tcgetattr

_LINES = 24
_READ_BYTES = 65_536


def run_on_terminal(arguments: Sequence[str], columns: int, env: Mapping[str, str]) -> str:
    """What a program writes to stdout and stderr on a terminal of `columns` columns with 256 colours, escapes included.

    The environment is that of this process with `env`, without NO_COLOR and COLUMNS.
    """
    terminal, program = pty.openpty()
    ioctl(program, TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    with subprocess.Popen(  # noqa: S603
        arguments, stdout=program, stderr=program, env=_environment(env)
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


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    return {**inherited, "TERM": "xterm-256color", **env}


class Screen:
    """A program on a pseudo-terminal that also reads its keyboard from it. `read` is all that it has written so far.

    The environment is that of `run_on_terminal`.
    """

    def __init__(self, arguments: Sequence[str], columns: int, env: Mapping[str, str]) -> None:
        self._terminal, program = pty.openpty()
        ioctl(program, TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
        self.mode_before = tcgetattr(self._terminal)
        self._process = subprocess.Popen(  # noqa: S603
            arguments, stdin=program, stdout=program, stderr=program, env=_environment(env), start_new_session=True
        )
        # It stays open, so that the mode of the terminal can be read after the program has ended.
        self._program = program
        self._output = b""
        os.set_blocking(self._terminal, False)

    def read(self) -> str:
        """What the program has written so far, escapes included."""
        while True:
            try:
                self._output += os.read(self._terminal, _READ_BYTES)
            except BlockingIOError:
                return self._output.decode(errors="replace")

    def press(self, keys: str) -> None:
        """Types these characters."""
        os.write(self._terminal, keys.encode())

    def interrupt(self) -> None:
        """Sends what Ctrl-C sends."""
        self._process.send_signal(SIGINT)

    def wait(self, timeout_s: float) -> int:
        """The exit code, when the program has ended by itself. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def mode(self) -> list[object]:
        """The mode of the terminal (termios(3))."""
        return tcgetattr(self._terminal)

    def close(self) -> None:
        """Ends the program if it still runs."""
        self._process.kill()
        self._process.wait()
        os.close(self._program)
        os.close(self._terminal)
