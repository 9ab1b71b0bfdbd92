"""The address of a Redis that Sentinels watch, as one URL. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

SCHEMES = ("redis+sentinel", "rediss+sentinel")
DEFAULT_PORT = 26379
_PARTS = re.compile(r"(rediss?\+sentinel)://([^/?#]*)(/[^#]*)")
_EXPECTED = "expected redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB][?sentinel_password=…]"


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """The addresses of the Sentinels, their name of the service, and the login of its master."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int
    tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)


def is_sentinel_url(url: str) -> bool:
    """Whether the scheme of the URL is one of Sentinels."""
    return url.partition("://")[0] in SCHEMES


def parse(url: str) -> SentinelUrl:
    """Reads such a URL; `rediss+sentinel` means TLS to the Sentinels and the servers. Raises ValueError."""
    found = _PARTS.fullmatch(url)
    if found is None:
        raise ValueError(_EXPECTED)
    # urlsplit parses only the part after the hosts, because it allows brackets only around a single host.
    scheme, authority, rest = found.groups()
    parts = urlsplit(rest)
    login, _, places = authority.rpartition("@")
    user, _, password = login.partition(":")
    service, _, db = parts.path.removeprefix("/").partition("/")
    query = parse_qs(parts.query)
    if not service or (db and not db.isdecimal()) or parts.fragment or set(query) - {"sentinel_password"}:
        raise ValueError(_EXPECTED)
    return SentinelUrl(
        sentinels=tuple(_place(place) for place in places.split(",")),
        service=unquote(service),
        db=int(db or 0),
        tls=scheme == "rediss+sentinel",
        username=unquote(user) or None,
        password=unquote(password) or None,
        sentinel_password=query.get("sentinel_password", [""])[0] or None,
    )


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if text.rfind(":") > text.rfind("]") else (text, "", str(DEFAULT_PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(_EXPECTED)
    return host.strip("[]"), int(port)
