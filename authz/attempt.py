"""One attempt of somebody to use the gateway, as plain values: what the two edges (gRPC and HTTP) hand to the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from pydantic import SecretStr

from gateway.surfaces import Dialect, dialect_of

USER_AGENT_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class Attempt:
    """`path` is without query. `key` is what was presented as a key, None when nothing was."""

    request_id: str
    method: str
    path: str
    key: SecretStr | None
    client_ip: str
    user_agent: str
    content_encoding: str
    body: bytes

    @property
    def dialect(self) -> Dialect:
        """The dialect in which a refusal is written."""
        return dialect_of(self.path)


def presented_key(authorization: str | None, api_key: str | None) -> SecretStr | None:
    """The key of `Authorization: Bearer …`, else of `x-api-key`. Anything else in Authorization is no key."""
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        return SecretStr(token.strip()) if scheme.lower() == "bearer" else None
    return SecretStr(api_key.strip()) if api_key is not None else None


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
