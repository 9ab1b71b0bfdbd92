"""What `up` was asked for, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.embedded import ports

LOOPBACK = "127.0.0.1"
_ANY = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 (where to reach what listens everywhere)


@dataclass(frozen=True)
class HostPort:
    """A TCP address; `host` carries no brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Reads `HOST:PORT` or `[HOST]:PORT`; raises ValueError. Port 0 stands for a free one, see `settled`."""
        host, separator, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host != bare
        if not separator or not bare or (":" in bare and not bracketed) or not port.isdecimal():
            raise ValueError(f"{text!r} is not HOST:PORT")
        if int(port) > 65535:
            raise ValueError(f"{text!r}: a port is at most 65535")
        return cls(bare, int(port))

    def settled(self) -> HostPort:
        """The same address, with a free port in place of 0."""
        return self if self.port else HostPort(self.host, ports.choose(self.host))

    def reach(self) -> HostPort:
        """The address to connect to: loopback for one that listens everywhere."""
        return HostPort(_ANY.get(self.host, self.host), self.port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`listen` and `backends` are None and empty when the env file decides; `tls` is None for no Caddy.

    `defaults` are lines for an env file that does not have them yet.
    """

    state_dir: Path
    listen: HostPort | None = None
    backends: tuple[tuple[str, str], ...] = ()
    workers: int = 2
    tls: HostPort | None = None
    ready_file: Path | None = None
    redis_server: Path | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
