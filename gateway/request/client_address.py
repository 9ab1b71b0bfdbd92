"""The address of the caller, from the connection and the forwarded headers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# A longer `user-agent` is cut.
USER_AGENT_CHARACTERS_MAX = 256
# The zone of an IPv6 address may have any length. A longer text is not retained.
_RETAINED_CHARACTERS_MAX = 64


def client_ip(peer: str, forwarded_for: str | None, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """The nearest address that is not a trusted proxy, starting from `peer`, which made the connection.

    `forwarded_for` is read from its right end, as long as every hop to the right is trusted. Entries further left,
    which a client can forge, are never used.
    """
    hops = [hop.strip() for hop in forwarded_for.split(",")] if forwarded_for else []
    hops.append(peer)
    nearest = peer
    for hop in reversed(hops):
        try:
            address, nearest = _read(hop) if len(hop) <= _RETAINED_CHARACTERS_MAX else _read.__wrapped__(hop)
        except ValueError:
            return nearest
        if not any(address in network for network in trusted if network.version == address.version):
            return nearest
    return nearest


@lru_cache(maxsize=1024)
def _read(hop: str) -> tuple[IPv4Address | IPv6Address, str]:
    """The address, and its one spelling. Raises ValueError."""
    address = ip_address(hop)
    return address, str(address)
