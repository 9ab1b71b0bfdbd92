"""The options of an embedded stack as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.embedded import ports
from ops.host.addresses import outward_address

LOOPBACK = "127.0.0.1"
_WILDCARDS = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 (nothing is bound)


@dataclass(frozen=True)
class HostPort:
    """A TCP address. `host` has no brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Parses `HOST:PORT` or `[HOST]:PORT`. Port 0 means any free port, see `with_free_port`. Raises ValueError."""
        host, separator, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host != bare
        if not separator or not bare or (":" in bare and not bracketed) or not port.isdecimal():
            raise ValueError(f"{text!r} is not HOST:PORT")
        if int(port) > 65535:
            raise ValueError(f"{text!r}: a port is at most 65535")
        return cls(bare, int(port))

    def with_free_port(self) -> HostPort:
        """Returns the address with a free port instead of port 0. Raises StackError when none is found."""
        return self if self.port else HostPort(self.host, ports.choose_free(self.host))

    def reachable(self) -> HostPort:
        """Returns the address to connect to, which is loopback for a wildcard address."""
        return HostPort(_WILDCARDS.get(self.host, self.host), self.port)

    def outward(self) -> HostPort:
        """Returns the address for other machines: for a wildcard, the address of this machine if it has a route."""
        if self.host not in _WILDCARDS:
            return self
        return HostPort(outward_address() or _WILDCARDS[self.host], self.port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """The options of `up`.

    Without `listen`, `backends`, `tls` and `playground` the env file decides. `backends` are pairs of name and URL.
    `tls` is the address of Caddy; `no_tls` means no Caddy, even if the env file has an address. `playground` switches
    the page on or off. `defaults` are settings for an env file that does not have them yet.
    """

    state_dir: Path
    listen: HostPort | None = None
    backends: tuple[tuple[str, str], ...] = ()
    workers: int = 2
    tls: HostPort | None = None
    no_tls: bool = False
    playground: bool | None = None
    ready_file: Path | None = None
    redis_server: Path | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
