"""Renders and writes every file that Envoy reads: bootstrap, listener, clusters, and the secrets that SDS serves.

Rendering is pure, except that it reads the authorities. `write` replaces each file by an atomic rename, by which Envoy
notices the change.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from string import Template

from google.protobuf.json_format import MessageToDict

from gateway.rpc.message_sizes import ANSWER_BYTES_MAX
from gateway.settings import Settings
from gateway.wire.names import REQUEST_ID_HEADER
from gateway.wire.timeouts import BODY_TIMEOUT_S, CHECK_TIMEOUT_S
from ops.backends import ca_files
from ops.data_plane import cds, cors, tracing
from ops.data_plane.backend_secrets import authority_name, secret_name
from ops.data_plane.cluster_json import Clusters
from ops.data_plane.clusters import render_clusters
from ops.data_plane.local_replies import local_reply_config
from ops.data_plane.service_tls import render_service_secrets, transport_sockets
from ops.data_plane.upstream_filters import HOLD_RESPONSE_WASM
from ops.host.atomic_write import write_atomically

# Envoy waits longer for a check than authz takes, so that it receives the denial.
_CHECK_MARGIN_S = 1.0
# The meter's rewriting may lengthen a body a little: escapes, the cap, include_usage.
_REWRITING_BYTES = 65_536
_SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)
_SECRET_FILE = re.compile(r"(authority|credential)-[a-z0-9-]+-[0-9a-f]{8}\.(yaml|token)")
_COLLECTOR_SECRET = "collector-*.yaml"  # noqa: S105 (a pattern of file names)
CLUSTERS_FILE = "cds.yaml"
# How many checks a preferred worker of authz gets for each one of a standby. On few cores, one busy worker costs less
# CPU than two: it handles more messages at a time and evicts fewer caches. A standby that gets some checks has verified
# the keys in use when it takes over. The meter has no standbys, because streams need all cores.
_PREFERRED_WEIGHT = 20
_CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def source_directory() -> Path:
    """Returns the directory of the hand-written files, in the installed package or at the root of a checkout."""
    packaged = Path(__file__).parents[1] / "_envoy"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "envoy"


def render(settings: Settings, directory: Path) -> dict[str, bytes]:
    """Returns the files by name, without secrets and authorities. Envoy reads them from `directory`."""
    return {
        **render_static(settings, directory),
        **render_sds(settings, directory),
        CLUSTERS_FILE: cds.document(clusters_of(settings, directory)),
    }


def render_static(settings: Settings, directory: Path) -> dict[str, bytes]:
    """Returns the files that do not depend on the backends, by name: bootstrap, listener and the hold filter."""
    wait_max_s = settings.queue_max_wait_s if settings.has_queue else 0.0
    preferred = settings.preferred_authz_workers or max(1, (os.cpu_count() or 1) // 2)
    values = {
        "NODE_ID": json.dumps(f"gateway-{settings.gateway_bind_port}"),
        "DIRECTORY": str(directory),
        "ADMIN_ADDRESS": json.dumps(_address(settings.envoy_admin_listen)),
        **_targets("AUTHZ_GRPC", settings.authz_grpc_targets, preferred),
        **_targets("AUTHZ_HTTP", settings.authz_http_targets, preferred),
        **_targets("METER_GRPC", settings.meter_grpc_targets),
        **{name: json.dumps(socket) for name, socket in transport_sockets(settings.service_tls, directory).items()},
        "BIND_HOST": json.dumps(settings.gateway_bind_host),
        "BIND_PORT": str(settings.gateway_bind_port),
        "REQUEST_ID_HEADER": json.dumps(settings.gateway_request_id_header),
        "REQUEST_ID_HEADER_IS_SET": json.dumps(settings.gateway_request_id_header.lower() == REQUEST_ID_HEADER),
        "READ_TIMEOUT": f"{settings.ollama_read_timeout_s:.3f}s",
        "CHECK_TIMEOUT": f"{CHECK_TIMEOUT_S + _CHECK_MARGIN_S + wait_max_s:g}s",
        "REQUEST_TIMEOUT": f"{BODY_TIMEOUT_S + wait_max_s:g}s",
        "REQUEST_BODY_BYTES_MAX": str(settings.max_request_body_bytes_ceiling),
        "BUFFER_BYTES_MAX": str(max(ANSWER_BYTES_MAX, 2 * settings.max_request_body_bytes_ceiling + _REWRITING_BYTES)),
        "ORIGINS": json.dumps(cors.origins_regex(settings.gateway_allowed_origins)),
        "CORS": json.dumps(cors.cors_policy(settings.gateway_allowed_origins)),
        "CORS_DISABLED": json.dumps(not settings.gateway_allowed_origins),
        "CORS_STATE": json.dumps(
            cors.remembered_headers(settings.gateway_allowed_origins, settings.gateway_request_id_header)
        ),
        "CORS_HEADERS": json.dumps(cors.remembered_header_mutations()),
        "TRACING": json.dumps(tracing.tracing(settings)),
        "RUNTIME": json.dumps(tracing.runtime(settings)),
        "COLLECTOR": ""
        if (collector := tracing.collector(settings, directory)) is None
        else f"- {json.dumps(collector)}",
        "LOCAL_REPLIES": json.dumps(local_reply_config(settings.max_request_body_bytes_ceiling)),
    }
    source = source_directory()
    files = {
        name: Template((source / name).read_text()).substitute(values).encode()
        for name in ("bootstrap.yaml", "listener.yaml")
    }
    files[HOLD_RESPONSE_WASM] = (source / HOLD_RESPONSE_WASM).read_bytes()
    files.update(render_service_secrets(settings.service_tls))
    return files


def render_sds(settings: Settings, directory: Path) -> dict[str, bytes]:
    """Returns, by file name, the SDS resource of each backend's credential, which has the path of the credential."""
    return {
        f"{secret_name(backend)}.yaml": _sds(secret_name(backend), directory)
        for backend in settings.backends
        if backend.credential()
    }


def clusters_of(settings: Settings, directory: Path) -> Clusters:
    """Returns the cluster of every backend in the form of cds.yaml."""
    rendered = [
        MessageToDict(cluster, preserving_proto_field_name=True) for cluster in render_clusters(settings, directory)
    ]
    return {cluster["name"]: {"@type": _CLUSTER_TYPE, **cluster} for cluster in rendered}


def render_secrets(settings: Settings) -> dict[str, bytes]:
    """Returns the credentials of the backends and of the trace collector by file name, for files of mode 0600."""
    credentials = {
        f"{secret_name(backend)}.token": credential[1].get_secret_value().encode()
        for backend in settings.backends
        if (credential := backend.credential())
    }
    headers = {
        f"{name}.yaml": _resource(name, {"generic_secret": {"secret": {"inline_string": value}}})
        for name, value in tracing.header_secrets(settings).items()
    }
    return {**credentials, **headers}


def render_authorities(settings: Settings) -> dict[str, bytes]:
    """Returns the current content of each https backend's `ca_file` as an SDS resource, by file name.

    Raises SettingsError.
    """
    found = ca_files.read(settings)
    return {
        f"{authority_name(backend)}.yaml": _authority(authority_name(backend), found[backend.name])
        for backend in settings.backends
        if backend.name in found and backend.base_url.startswith("https://")
    }


def write(settings: Settings, directory: Path) -> None:
    """Writes all files to `directory` (mode 0700), the clusters after the secrets that they name.

    Raises SettingsError, before the first write, for an unusable `ca_file`.
    """
    files = {**render_authorities(settings), **render_secrets(settings), **render(settings, directory)}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: (name == CLUSTERS_FILE, name)):
        write_atomically(directory / name, files[name])
    delete_secrets(directory, keep={Path(name).stem for name in files})
    for path in directory.glob(_COLLECTOR_SECRET):
        if path.name not in files:
            path.unlink(missing_ok=True)


def delete_secrets(directory: Path, keep: Collection[str]) -> None:
    """Deletes the credentials and authorities in `directory` except those named in `keep`, and no other file."""
    for path in directory.iterdir():
        if _SECRET_FILE.fullmatch(path.name) and path.stem not in keep:
            path.unlink(missing_ok=True)


def _address(listen: str) -> dict[str, dict[str, object]]:
    if listen.startswith("unix:"):
        return {"pipe": {"path": listen.removeprefix("unix:"), "mode": 0o600}}
    host, _, port = listen.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _targets(name: str, targets: list[str], preferred: int | None = None) -> dict[str, str]:
    """Returns the endpoints of one service and their discovery: static for sockets, DNS with one record per worker.

    Of workers with sockets, which run on this machine, those after the first `preferred` ones are standbys. There are
    none without that number.
    """
    addresses = [_address(target) for target in targets]
    for pipe in (address["pipe"] for address in addresses if "pipe" in address):
        del pipe["mode"]  # Only a listening socket has a mode.
    is_dns = any("socket_address" in address for address in addresses)
    endpoints: list[dict[str, object]] = [{"endpoint": {"address": address}} for address in addresses]
    if preferred is not None and preferred < len(endpoints) and not is_dns:
        for number, endpoint in enumerate(endpoints):
            endpoint["load_balancing_weight"] = _PREFERRED_WEIGHT if number < preferred else 1
    return {
        f"{name}_ENDPOINTS": json.dumps([{"lb_endpoints": endpoints}]),
        f"{name}_DISCOVERY": "STRICT_DNS" if is_dns else "STATIC",
    }


def _sds(name: str, directory: Path) -> bytes:
    secret = {"filename": str(directory / f"{name}.token")}
    return _resource(name, {"generic_secret": {"secret": secret}})


def _authority(name: str, content: bytes) -> bytes:
    return _resource(name, {"validation_context": {"trusted_ca": {"inline_bytes": base64.b64encode(content).decode()}}})


def _resource(name: str, secret: dict[str, object]) -> bytes:
    return json.dumps({"resources": [{"@type": _SECRET_TYPE, "name": name, **secret}]}).encode()
