"""The address that the owner of a new key needs, and what that address requires of a client."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ops.cli.session import Session
from ops.embedded import configuration
from ops.embedded.options import HostPort
from ops.embedded.state import AUTHORITY_ROOT
from ops.host import env_file
from ops.host.addresses import is_loopback
from ops.host.client_environment import base_url


class ClientAddress(NamedTuple):
    """A URL, notes on its use, which are sentences, and the authority to trust if it is not a public one."""

    url: str
    notes: list[str]
    ca_file: Path | None = None


def client_address(session: Session) -> ClientAddress:
    """The public address of the gateway. For one that `up` runs, the address that other machines can reach, if any."""
    settings, directory = session.settings, session.state_dir
    if directory is None:
        return ClientAddress(base_url(settings), [])
    tls = configuration.stored_tls_address(env_file.read(directory / ".env"))
    domain = None if settings.gateway_domain == "localhost" else settings.gateway_domain
    if tls is None:
        return _plain(HostPort(settings.gateway_bind_host, settings.gateway_bind_port), base_url(settings), domain)
    return _tls(tls, domain, directory)


def _plain(listen: HostPort, default: str, domain: str | None) -> ClientAddress:
    if domain is not None:
        return ClientAddress(default, [])
    if is_loopback(listen.host):
        note = "other machines cannot reach this address; restart `up` with --tls 0.0.0.0:8443 to serve them"
        return ClientAddress(f"http://{listen}", [note])
    note = "keys and prompts travel in clear text to this address; restart `up` with --tls 0.0.0.0:8443"
    return ClientAddress(f"http://{listen.outward()}", [note])


def _tls(tls: HostPort, domain: str | None, directory: Path) -> ClientAddress:
    ca_file = directory / AUTHORITY_ROOT
    notes = [f"clients have to trust the certificate authority in {ca_file}"]
    if domain is None and is_loopback(tls.host):
        notes.append("other machines cannot reach this address; restart `up` with --tls 0.0.0.0:8443 to serve them")
    return ClientAddress(f"https://{HostPort(domain, tls.port) if domain else tls.outward()}", notes, ca_file)
