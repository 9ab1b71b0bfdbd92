"""Who called, as far as the network and the caller's own words say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

# What is kept of a caller's `user-agent`.
USER_AGENT_CHARACTERS_MAX = 256


def client_ip(peer: str, forwarded_for: str | None, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """The nearest address that is not a trusted proxy, beginning with `peer`, which made the connection.

    `forwarded_for` is read from its right end, and only as far as every hop to the right of it is trusted; what a
    client wrote further left is never believed.
    """
    hops = [hop.strip() for hop in forwarded_for.split(",")] if forwarded_for else []
    hops.append(peer)
    nearest = peer
    for hop in reversed(hops):
        try:
            address = ip_address(hop)
        except ValueError:
            return nearest
        nearest = str(address)
        if not any(address in network for network in trusted if network.version == address.version):
            return nearest
    return nearest
