"""The address of this machine for other machines."""

from __future__ import annotations

import socket
from ipaddress import ip_address

# A documentation address (RFC 5737). Connecting a datagram socket sends nothing, it only chooses the local address.
_ELSEWHERE = ("192.0.2.1", 9)


def outward_address() -> str | None:
    """The IPv4 address of the interface with the default route; None without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can connect to an address that is bound to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
