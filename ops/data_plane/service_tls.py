"""Envoy's side of mutual TLS with authz and meter: its certificate, and the authority that it trusts. Pure.

Envoy reads both secrets by SDS from files and watches their directories. It applies a renewed certificate or authority
when the file, or a symbolic link in its path, is replaced by a rename.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.settings import TlsFiles
from gateway.wire.names import AUTHZ_TLS_NAME, METER_TLS_NAME

Json = dict[str, Any]

CERTIFICATE, AUTHORITY = "service-certificate", "service-authority"
_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets"
_PLAIN: Json = {
    "name": "envoy.transport_sockets.raw_buffer",
    "typed_config": {"@type": f"{_TYPE}.raw_buffer.v3.RawBuffer"},
}


def transport_sockets(tls: TlsFiles | None, directory: Path) -> dict[str, Json]:
    """Returns the transport socket for each placeholder of the bootstrap, plain text without `tls`."""
    return {
        "AUTHZ_GRPC_TRANSPORT": _mutual(AUTHZ_TLS_NAME, "h2", directory) if tls else _PLAIN,
        "METER_GRPC_TRANSPORT": _mutual(METER_TLS_NAME, "h2", directory) if tls else _PLAIN,
        "AUTHZ_HTTP_TRANSPORT": _mutual(AUTHZ_TLS_NAME, "http/1.1", directory) if tls else _PLAIN,
    }


def render_service_secrets(tls: TlsFiles | None) -> dict[str, bytes]:
    """Returns the SDS resources by file name. They contain the paths of Envoy's files, not their content."""
    if tls is None:
        return {}
    certificate = {
        "certificate_chain": {"filename": str(tls.cert)},
        "private_key": {"filename": str(tls.key)},
        "watched_directory": {"path": str(tls.cert.parent)},
    }
    authority = {"trusted_ca": {"filename": str(tls.ca)}, "watched_directory": {"path": str(tls.ca.parent)}}
    return {
        f"{CERTIFICATE}.yaml": _secret(CERTIFICATE, {"tls_certificate": certificate}),
        f"{AUTHORITY}.yaml": _secret(AUTHORITY, {"validation_context": authority}),
    }


def _mutual(name: str, protocol: str, directory: Path) -> Json:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.tls.v3.UpstreamTlsContext",
            "sni": name,
            "common_tls_context": {
                "alpn_protocols": [protocol],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificate_sds_secret_configs": [_sds(CERTIFICATE, directory)],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}]
                    },
                    "validation_context_sds_secret_config": _sds(AUTHORITY, directory),
                },
            },
        },
    }


def _sds(name: str, directory: Path) -> Json:
    source = {"path": str(directory / f"{name}.yaml"), "watched_directory": {"path": str(directory)}}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": source}}


def _secret(name: str, content: Json) -> bytes:
    resource = {"@type": f"{_TYPE}.tls.v3.Secret", "name": name, **content}
    return json.dumps({"resources": [resource]}).encode()
