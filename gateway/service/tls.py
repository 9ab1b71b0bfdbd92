"""The server side of mutual TLS: a client needs a certificate of the configured authority to connect.

The files are checked for every connection, so a renewed certificate or authority needs no restart. While the files do
not match each other, as in the middle of a renewal, the last matching ones stay in use.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from gateway.errors import SettingsError
from gateway.settings import TlsFiles

log = structlog.get_logger()

_Stamp = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    stamp: _Stamp
    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class ServiceTls:
    """The certificate of one process and its demands on clients. Raises SettingsError if the files are not usable."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        try:
            self._loaded = self._load(self._stamp())
        except OSError as error:
            raise SettingsError(f"SERVICE_TLS_CERT_FILE, SERVICE_TLS_KEY_FILE, SERVICE_TLS_CA_FILE: {error}") from None
        self._rejected: _Stamp | None = None

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port` of one server."""
        current = self._loaded.configuration

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal current
            newest = self._newest().configuration
            if newest is current:
                return None
            current = newest
            return newest

        # The stubs omit that the result may be None, for no change.
        return grpc.dynamic_ssl_server_credentials(current, renewed, True)  # type: ignore[arg-type]

    def http_context(self) -> ssl.SSLContext:
        """For an aiohttp site."""
        context = self._load(self._stamp()).context
        # Called at each handshake, with or without a host name.
        context.sni_callback = lambda connection, _name, _context: setattr(
            connection, "context", self._newest().context
        )
        return context

    def _newest(self) -> _Loaded:
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

    def _stamp(self) -> _Stamp:
        return tuple(_identity(path) for path in self._files)

    def _load(self, stamp: _Stamp) -> _Loaded:
        """Raises OSError, of which `ssl.SSLError` is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._files.cert, self._files.key)
        context.load_verify_locations(self._files.ca)
        key, cert, ca = self._files.key.read_bytes(), self._files.cert.read_bytes(), self._files.ca.read_bytes()
        return _Loaded(stamp, context, grpc.ssl_server_certificate_configuration([(key, cert)], ca))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
