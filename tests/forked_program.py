"""Programs of this distribution that many tests start, forked from a process that has imported their modules.

The imports are most of the CPU time of a start: 0.7 s of `up` and 0.3 s of a simulated Ollama. A forked program runs
as it does after `python -m`, except that /proc shows the arguments and the environment of the process that forked it.
That process, which is this module as a program, serves the protocol of ops.embedded.fork_server.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ops.embedded import fork_server

# What `up` and the simulated Ollama import.
PRELOADED = (
    *fork_server.PRELOADED,
    "ops.cli.up",
    "ops.database.migrate",
    "ops.embedded.foreground",
    "ops.simulator.app",
)
START_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[1]
_ANSWER_BYTES_MAX = 4096


class ForkedProgram:
    """A running module, with the methods of subprocess.Popen that the tests use. It does not outlive this process.

    Use all programs in the same thread.
    """

    def __init__(self, module: str, *arguments: str, output: Path, env: Mapping[str, str]) -> None:
        """Runs `python -m MODULE ARGUMENTS` with the environment `env`. Both output streams go to `output`."""
        self.pid = _forks().start((module, *arguments), output, env)

    def poll(self) -> int | None:
        """The exit code, negative for the number of a signal; None while the program runs."""
        return _forks().code(self.pid, 0)

    def wait(self, timeout: float) -> int:
        """Returns the exit code when the program has ended. Raises TimeoutError after `timeout` seconds."""
        code = _forks().code(self.pid, timeout)
        if code is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout:.0f} s")
        return code

    def terminate(self) -> None:
        """Sends SIGTERM unless the program has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL unless the program has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Forks:
    """The client of the process that forks, which ends when this process does."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # In another session, so that Ctrl-C does not end the programs before the tests stop them.
        command = [sys.executable, "-m", "tests.forked_program"]
        self._process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=_ROOT, start_new_session=True)
        theirs.close()
        self._codes: dict[int, int] = {}

    def start(self, argv: tuple[str, ...], output: Path, env: Mapping[str, str]) -> int:
        """Returns the process id."""
        fields = {"request": 0, "name": argv[0], "argv": argv, "env": {**env}, "cwd": str(Path.cwd())}
        with output.open("ab") as log:
            socket.send_fds(self._socket, [json.dumps(fields).encode()], [log.fileno()])
        deadline = time.monotonic() + START_TIMEOUT_S
        while answer := self._receive(deadline):
            if "code" not in answer:
                assert "errno" not in answer, os.strerror(answer["errno"])
                pid: int = answer["pid"]
                # An earlier program may have had this process id.
                self._codes.pop(pid, None)
                return pid
        raise AssertionError(f"{argv[0]} was not forked within {START_TIMEOUT_S:.0f} s")

    def code(self, pid: int, timeout_s: float) -> int | None:
        """Returns the exit code of a program, None if it does not end within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while pid not in self._codes and self._receive(deadline):
            pass
        return self._codes.get(pid)

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """Returns the next message, None if none arrives until `deadline`. Records the exit code of a program."""
        if not select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        data = self._socket.recv(_ANSWER_BYTES_MAX)
        assert data, "the process that forks has ended"
        message: dict[str, Any] = json.loads(data)
        if "code" in message:
            self._codes[message["pid"]] = message["code"]
        return message


@cache
def _forks() -> _Forks:
    return _Forks()


def main() -> None:
    """Forks a process for each request; in a forked process, runs the requested module."""
    for module in PRELOADED:
        import_module(module)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as tests:
        request = fork_server.serve(tests)
    if request is not None:
        fork_server.exit_after(lambda: fork_server.run_module(request))


if __name__ == "__main__":
    main()
