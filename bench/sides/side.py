"""What a measurement needs of a program."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.processes import Services
from ops.embedded import launcher

STOP_TIMEOUT_S = 60.0
_POLL_S = 0.05


class BenchFailed(Exception):
    """The measurement is impossible. The message states the reason."""


@dataclass(frozen=True)
class Side:
    """A program that serves chats at `host:port` under `path` for requests with one of `keys`, or without a key.

    `services` returns its processes, those of its stores included.
    """

    name: str
    host: str
    port: int
    services: Callable[[], Services]
    keys: Sequence[str] = ()
    path: str = "/api/chat"


@contextmanager
def process(
    command: Sequence[str], log: Path, *, env: Mapping[str, str], directory: Path, piped: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Runs a program that ends with this process, and stops it by SIGTERM. Its output goes to the file `log`.

    With `piped`, stdin and stdout are pipes.
    """
    with log.open("ab") as output:
        pipe: int | IO[bytes] = subprocess.PIPE if piped else output
        started = subprocess.Popen(  # noqa: S603 (the programs of the benchmark)
            launcher.command_line(command, None),
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=pipe,
            stderr=output,
            env=dict(env),
            cwd=directory,
            text=True,
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
            for stream in filter(None, (started.stdin, started.stdout)):
                stream.close()


def wait_until(
    ready: Callable[[], bool], name: str, started: subprocess.Popen[str], log: Path, timeout_s: float
) -> None:
    """Returns when `ready` is true. Raises BenchFailed with the end of the log if the program exits or needs longer."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if started.poll() is not None or time.monotonic() > deadline:
            raise BenchFailed(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(_POLL_S)
