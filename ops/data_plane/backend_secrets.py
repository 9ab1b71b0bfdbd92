"""The names of a backend's secrets in SDS, and the references to them. Pure.

A backend has up to two secrets: its credential, and the certificate authority in its `ca_file`. Both belong to one
destination. A backend whose address changes gets new secrets, because Envoy applies clusters and secrets at different
times and no token may reach an address that it is not meant for. A new token or a renewed authority keeps the name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig

from gateway.settings.backend import Backend


def secret_name(backend: Backend) -> str:
    """Returns the SDS name of the backend's credential, which is also the stem of its two files."""
    return f"credential-{backend.name}-{_destination_digest(backend)}"


def authority_name(backend: Backend) -> str:
    """Returns the SDS name of the backend's certificate authority, which is also the stem of its file.

    The authority is a secret and not part of the cluster, so that a renewal keeps open connections.
    """
    return f"authority-{backend.name}-{_destination_digest(backend)}"


def sds_reference(name: str, directory: Path) -> SdsSecretConfig:
    """Returns the reference to the secret `name`, which Envoy reads from a file in `directory` and watches there."""
    source = config_source_pb2.PathConfigSource(
        path=str(directory / f"{name}.yaml"), watched_directory=base_pb2.WatchedDirectory(path=str(directory))
    )
    sds = config_source_pb2.ConfigSource(resource_api_version=config_source_pb2.V3, path_config_source=source)
    return SdsSecretConfig(name=name, sds_config=sds)


def _destination_digest(backend: Backend) -> str:
    parts = [sorted(backend.urls), str(backend.ca_file), backend.auth_header.lower(), backend.auth_scheme]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
