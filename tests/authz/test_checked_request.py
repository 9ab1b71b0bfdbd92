from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from gateway.request.client_address import client_ip
from gateway.wire.surfaces import plain_path

Networks = tuple[IPv4Network | IPv6Network, ...]

LOOPBACK: Networks = (ip_network("127.0.0.1/32"),)
PROXIES: Networks = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("203.0.113.9", None, LOOPBACK, "203.0.113.9"),
        ("127.0.0.1", "203.0.113.9", LOOPBACK, "203.0.113.9"),
        ("10.0.0.2", "198.51.100.7, 203.0.113.9, 10.0.0.1", PROXIES, "203.0.113.9"),
        ("127.0.0.1", None, LOOPBACK, "127.0.0.1"),
        ("127.0.0.1", "10.0.0.5", PROXIES, "10.0.0.5"),
        ("fd00::1", "2001:db8::5", PROXIES, "2001:db8::5"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_a_trusted_proxy(
    peer: str, forwarded: str | None, trusted: Networks, expected: str
) -> None:
    assert client_ip(peer, forwarded, trusted) == expected


def test_a_forged_address_is_never_used() -> None:
    assert client_ip("203.0.113.9", "1.2.3.4", LOOPBACK) == "203.0.113.9"
    assert client_ip("127.0.0.1", "not an address", LOOPBACK) == "127.0.0.1"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/api/chat", "/api/chat"),
        ("/api/chat/", "/api/chat"),
        ("/api/chat/?x=/", "/api/chat"),
        ("/v1/models/a/b", "/v1/models/a/b"),
        ("/", "/"),
        ("/?x", "/"),
        ("", ""),
    ],
)
def test_a_path_has_no_query_and_no_slash_at_its_end(target: str, path: str) -> None:
    assert plain_path(target) == path
