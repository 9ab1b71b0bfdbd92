"""The description of a supervised child process. Creating one starts nothing."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ops.host.probes import Probe


class User(NamedTuple):
    """The numeric user and group that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process of the stack.

    `argv` is a program and its arguments. With `forked` it is a Python module and its arguments, and the fork server
    starts it.
    `ready` probes whether it serves. It must return quickly, as it is polled until `start_timeout_s`. The start fails
    after `start_attempts` exits without a readiness. Stopping runs `drain`, which bounds itself, and then sends
    `stop_signal`; a process that is still alive `stop_grace_s` later is killed.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    ready: Probe
    forked: bool = False
    user: User | None = None
    start_timeout_s: float = 30.0
    start_attempts: int = 1
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    drain: Callable[[], Awaitable[None]] | None = None
