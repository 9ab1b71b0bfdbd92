"""TCP ports of this machine: whether one can be bound, and the choice of a free one."""

from __future__ import annotations

import errno
import random
import socket
import time

from ops.embedded.errors import StackError

# Below the ephemeral port range (ip_local_port_range), so that no outgoing connection takes a chosen port.
_CANDIDATES = range(20_000, 32_768)
_ATTEMPTS = 200
_POLL_S = 0.05


def bind_error(host: str, port: int) -> OSError | None:
    """Returns why `host:port` cannot be bound now, None when it can.

    Connections in TIME_WAIT do not count, listeners do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def choose_free(host: str) -> int:
    """Returns a port that is free on `host` now. Raises StackError when none is found."""
    for port in random.sample(_CANDIDATES, _ATTEMPTS):
        if bind_error(host, port) is None:
            return port
    raise StackError(f"no free TCP port was found on {host}")


def keep_or_choose(host: str, port: int | None, wait_s: float) -> int:
    """Returns `port` if it becomes free within `wait_s`, as its last user may be about to exit, else another one."""
    if port is None:
        return choose_free(host)
    deadline = time.monotonic() + wait_s
    while bind_error(host, port) is not None:
        if time.monotonic() > deadline:
            return choose_free(host)
        time.sleep(_POLL_S)
    return port


def require_free(option: str, host: str, port: int) -> None:
    """Raises StackError, which names the option, when `host:port` cannot be bound."""
    error = bind_error(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise StackError(f"{option} {host}:{port}: another program already listens there")
    raise StackError(f"{option} {host}:{port} cannot be bound: {error.strerror}")
