"""What a supervised process is: a description that starts nothing."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ops.host.probes import Probe


class User(NamedTuple):
    """The numeric identity that a child drops to."""

    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process of the stack.

    `ready` tells whether it serves; it is asked again and again until `start_timeout_s` and returns soon itself.
    `start_attempts` is how many exits before the first readiness make the start fail. To stop it, `drain` (which
    bounds itself) runs first, then `stop_signal` is sent; what is alive `stop_grace_s` after that is killed.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    ready: Probe
    user: User | None = None
    start_timeout_s: float = 30.0
    start_attempts: int = 1
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    drain: Callable[[], Awaitable[None]] | None = None
