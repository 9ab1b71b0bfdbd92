"""TLS from Envoy to a backend with an https address. Pure."""

from __future__ import annotations

import ssl
from pathlib import Path

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import any as packed

from gateway.settings.backend import Backend
from ops.data_plane.backend_secrets import authority_name, sds_reference

_ALPN = ["http/1.1"]
_DEFAULT_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def transport_socket(backend: Backend, host: str, directory: Path, *, is_address: bool) -> base_pb2.TransportSocket:
    """Returns the TLS transport socket of the backend's cluster.

    The certificate must be valid for `host`, an IP address if `is_address`, else a DNS name. `directory` contains the
    SDS files.
    """
    san_types = common_pb2.SubjectAltNameMatcher
    name = common_pb2.SubjectAltNameMatcher(
        san_type=san_types.IP_ADDRESS if is_address else san_types.DNS, matcher=string_pb2.StringMatcher(exact=host)
    )
    context = tls_pb2.UpstreamTlsContext(
        # SNI has no form for an IP address (RFC 6066, section 3).
        sni="" if is_address else host,
        common_tls_context=_validation(backend, name, directory),
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed.pack(context))


def _validation(backend: Backend, name: common_pb2.SubjectAltNameMatcher, directory: Path) -> tls_pb2.CommonTlsContext:
    """Accepts certificates of `name` from the backend's own authority, without one from those of the system."""
    if backend.ca_file is not None:
        combined = tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=[name]),
            validation_context_sds_secret_config=sds_reference(authority_name(backend), directory),
        )
        return tls_pb2.CommonTlsContext(alpn_protocols=_ALPN, combined_validation_context=combined)
    bundle = ssl.get_default_verify_paths().cafile or _DEFAULT_BUNDLE
    context = common_pb2.CertificateValidationContext(
        trusted_ca=base_pb2.DataSource(filename=bundle), match_typed_subject_alt_names=[name]
    )
    return tls_pb2.CommonTlsContext(alpn_protocols=_ALPN, validation_context=context)
