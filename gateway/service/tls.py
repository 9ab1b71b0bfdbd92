"""The server side of mutual TLS: a client needs a certificate of the configured authority to connect.

The files are checked for every connection, so a renewed certificate or authority needs no restart. While the files do
not match each other, as in the middle of a renewal, the last matching ones stay in use.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.errors import SettingsError
from gateway.settings import TlsFiles

log = structlog.get_logger()

_Stamp = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The content of the files as PEM, and contexts of it: `http1` without ALPN, `http2` for peers that choose `h2`."""

    stamp: _Stamp
    key: bytes
    cert: bytes
    ca: bytes
    http1: ssl.SSLContext
    http2: ssl.SSLContext


class ServiceTls:
    """The certificate of one process and its demands on clients. Raises SettingsError if the files are not usable."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        try:
            self._loaded = self._load(self._stamp())
        except OSError as error:
            raise SettingsError(f"SERVICE_TLS_CERT_FILE, SERVICE_TLS_KEY_FILE, SERVICE_TLS_CA_FILE: {error}") from None
        self._rejected: _Stamp | None = None

    def http1_context(self) -> ssl.SSLContext:
        """The context of an aiohttp site. It follows renewals of the files."""
        return self._following(self._load(self._stamp()).http1, lambda loaded: loaded.http1)

    def http2_context(self) -> ssl.SSLContext:
        """The context of an HTTP/2 server, which selects `h2` by ALPN. It follows renewals of the files."""
        return self._following(self._load(self._stamp()).http2, lambda loaded: loaded.http2)

    def newest(self) -> Loaded:
        """The content of the files, or the last content that matched. Any thread may call it."""
        stamp = self._stamp()
        if stamp in (self._loaded.stamp, self._rejected):
            return self._loaded
        try:
            self._loaded = self._load(stamp)
            log.info("certificate_renewed", cert=str(self._files.cert))
        except OSError as error:
            self._rejected = stamp
            log.warning("certificate_not_renewed", cert=str(self._files.cert), reason=str(error))
        return self._loaded

    def _following(self, context: ssl.SSLContext, choose: Callable[[Loaded], ssl.SSLContext]) -> ssl.SSLContext:
        # Called at each handshake, with or without a host name.
        context.sni_callback = lambda connection, _name, _context: setattr(connection, "context", choose(self.newest()))
        return context

    def _stamp(self) -> _Stamp:
        return tuple(_identity(path) for path in self._files)

    def _load(self, stamp: _Stamp) -> Loaded:
        """Raises OSError, of which `ssl.SSLError` is one."""
        http1, http2 = self._context(), self._context()
        http2.set_alpn_protocols(["h2"])
        key, cert, ca = self._files.key.read_bytes(), self._files.cert.read_bytes(), self._files.ca.read_bytes()
        return Loaded(stamp, key, cert, ca, http1, http2)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._files.cert, self._files.key)
        context.load_verify_locations(self._files.ca)
        return context


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
