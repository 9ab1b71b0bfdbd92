"""TCP ports of this machine: which can be bound, and free ones."""

from __future__ import annotations

import errno
import random
import socket
import time

from ops.embedded.errors import StackError

# Below the range that outgoing connections are given (ip_local_port_range), so that none takes a kept port.
_CHOICE = range(20_000, 32_768)
_ATTEMPTS = 200
_POLL_S = 0.05


def obstacle(host: str, port: int) -> OSError | None:
    """Why `host:port` cannot be bound now; None when it can. Lingering connections are none, listeners are."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def choose(host: str) -> int:
    """A port that is free on `host` now; raises StackError when none is found."""
    for port in random.sample(_CHOICE, _ATTEMPTS):
        if obstacle(host, port) is None:
            return port
    raise StackError(f"no free TCP port was found on {host}")


def keep_or_choose(host: str, port: int | None, patience_s: float) -> int:
    """`port` if it is free within `patience_s` (its old holder may be about to end), else another one."""
    if port is None:
        return choose(host)
    deadline = time.monotonic() + patience_s
    while obstacle(host, port) is not None:
        if time.monotonic() > deadline:
            return choose(host)
        time.sleep(_POLL_S)
    return port


def require_free(option: str, host: str, port: int) -> None:
    """Raises StackError, naming the option, when `host:port` cannot be bound."""
    error = obstacle(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise StackError(f"{option} {host}:{port}: another program already listens there")
    raise StackError(f"{option} {host}:{port} cannot be bound: {error.strerror}")
