"""What every server needs to bind `HOST:PORT` or `unix:/path`: a private socket file, and the reason of a failure."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def private_socket(listen: str) -> Iterator[None]:
    """Removes a stale `unix:/path` and gives the socket that the block binds mode 0600. No effect on `HOST:PORT`."""
    if not listen.startswith("unix:"):
        yield
        return
    Path(listen.removeprefix("unix:")).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def bind_failure(error: OSError) -> str:
    """Why an address could not be bound, without the address, such as `address already in use`."""
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved"
    if error.errno == errno.EADDRNOTAVAIL:
        return "the address is not available on this host"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def try_bind(listen: str) -> OSError | None:
    """Binds the address for a moment and returns the error, None when it can be bound.

    gRPC writes the reason of a failed bind to its own log only.
    """
    try:
        if listen.startswith("unix:"):
            path = listen.removeprefix("unix:")
            with socket.socket(socket.AF_UNIX) as unix_socket:
                unix_socket.bind(path)
            Path(path).unlink()
        else:
            host, _, port = listen.rpartition(":")
            for family, kind, protocol, _name, address in socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            ):
                with socket.socket(family, kind, protocol) as tcp_socket:
                    tcp_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    tcp_socket.bind(address)
    except OSError as error:
        return error
    return None
