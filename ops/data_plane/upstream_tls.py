"""TLS from Envoy to a backend with an https address. Pure."""

from __future__ import annotations

import ssl
from pathlib import Path

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from gateway.settings.backend import Backend
from ops.data_plane.backend_secrets import authority_name, sds_reference

_ALPN = ["http/1.1"]
_DEFAULT_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def transport_socket(backend: Backend, host: str, directory: Path, *, is_address: bool) -> core.TransportSocket:
    """Returns the TLS transport socket of the backend's cluster.

    The certificate must be valid for `host`, an IP address if `is_address`, else a DNS name. `directory` contains the
    SDS files.
    """
    san_types = tls.SubjectAltNameMatcherSanType
    name = tls.SubjectAltNameMatcher(
        san_type=san_types.IP_ADDRESS if is_address else san_types.DNS, matcher=matcher.StringMatcher(exact=host)
    )
    context = tls.UpstreamTlsContext(
        # SNI has no form for an IP address (RFC 6066, section 3).
        sni="" if is_address else host,
        common_tls_context=_validation(backend, name, directory),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _validation(backend: Backend, name: tls.SubjectAltNameMatcher, directory: Path) -> tls.CommonTlsContext:
    """Accepts certificates of `name` from the backend's own authority, without one from those of the system."""
    if backend.ca_file is not None:
        combined = tls.CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=tls.CertificateValidationContext(match_typed_subject_alt_names=[name]),
            validation_context_sds_secret_config=sds_reference(authority_name(backend), directory),
        )
        return tls.CommonTlsContext(alpn_protocols=_ALPN, combined_validation_context=combined)
    bundle = ssl.get_default_verify_paths().cafile or _DEFAULT_BUNDLE
    context = tls.CertificateValidationContext(
        trusted_ca=core.DataSource(filename=bundle), match_typed_subject_alt_names=[name]
    )
    return tls.CommonTlsContext(alpn_protocols=_ALPN, validation_context=context)
