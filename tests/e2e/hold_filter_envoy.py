"""A real Envoy that only routes, retries and holds: two clusters in priority order, each with the hold filter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from google.protobuf.json_format import MessageToDict

from gateway.record.grant import METADATA_NAMESPACE, TRIES_KEY
from gateway.settings.backend import Backend
from gateway.wire.names import NOT_AN_ANSWER, RETRY_AFTER_HEADER, SERVER_BUSY
from ops.data_plane.hold_filter import HOLD_RESPONSE_WAT
from ops.data_plane.upstream_filters import http_protocol_options
from ops.host import binaries
from tests.polling import eventually_async

HOLD_RESPONSE_WASM = HOLD_RESPONSE_WAT.with_suffix(".wasm")
UNFILTERED, SHORT_TIMEOUT, PATIENT, NO_METER = "/unfiltered", "/short-timeout", "/patient", "/no-meter"
"""Path prefixes: clusters without the filter, a short timeout per attempt, attempts beyond the two clusters, and
clusters with all filters of the gateway, of which no meter answers the calls."""
ATTEMPTS_MAX = 4
"""The attempts of a request under PATIENT."""

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_TYPE = "type.googleapis.com/envoy"
_HOLD_RESPONSE = {
    "name": "envoy.filters.http.wasm",
    "typed_config": {
        "@type": f"{_TYPE}.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "hold_response",
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "200"},
            "failure_policy": "FAIL_RELOAD",
            "allow_on_headers_stop_iteration": True,
            "vm_config": {
                "vm_id": "hold_response",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": str(HOLD_RESPONSE_WASM)}},
            },
        },
    },
}
_CODEC = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
}
# The filter holds a body of up to 16 MiB; one more read must fit as well.
_BUFFER_BYTES_MAX = 18 * 1024 * 1024


def _own_filters(directory: Path) -> list[dict[str, Any]]:
    """The filters of a backend's cluster, without the codec. The hold filter has one timeout for all clusters."""
    (directory / HOLD_RESPONSE_WASM.name).symlink_to(HOLD_RESPONSE_WASM)
    backend = Backend(name="sim", base_url="http://127.0.0.1:1")
    options = http_protocol_options("sim", backend, [], directory, with_paths=False, timeout_s=0.2, wait_max_s=1)
    filters: list[dict[str, Any]] = MessageToDict(options, preserving_proto_field_name=True)["http_filters"]
    return filters[:-1]


def _cluster(name: str, port: int, http_filters: list[Any]) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
                "http_filters": [*http_filters, _CODEC],
            }
        },
    }


def _route(prefix: str, clusters: list[str], **retry_policy: Any) -> dict[str, Any]:
    specifier = f"{_TYPE}.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier"
    groups = [{"name": name, "clusters": [{"cluster_name": name, "weight": 1}]} for name in clusters]
    return {
        "match": {"prefix": prefix},
        "request_body_buffer_limit": _BUFFER_BYTES_MAX,
        "route": {
            "inline_cluster_specifier_plugin": {
                "extension": {
                    "name": "envoy.router.cluster_specifier_plugin.priority_group",
                    "typed_config": {"@type": specifier, "priority_groups": groups},
                }
            },
            "timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset,gateway-error,retriable-status-codes",
                "retriable_status_codes": [500, NOT_AN_ANSWER, SERVER_BUSY],
                "num_retries": 1,
                "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
                "rate_limited_retry_back_off": {
                    "reset_headers": [{"name": RETRY_AFTER_HEADER, "format": "SECONDS"}],
                },
                "refresh_cluster_on_retry": True,
                **retry_policy,
            },
        },
    }


def _bootstrap(ports: Mapping[str, int], own_filters: list[dict[str, Any]]) -> dict[str, Any]:
    held, unfiltered, complete = list(ports), *([f"{kind}-{name}" for name in ports] for kind in ("unfiltered", "all"))
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
    }
    # As authz does.
    tries = {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [{"metadata_namespace": METADATA_NAMESPACE, "value": {TRIES_KEY: f"{len(ports)}"}}],
        },
    }
    routes = [
        _route(UNFILTERED, unfiltered),
        _route(SHORT_TIMEOUT, held, per_try_timeout="0.2s"),
        _route(PATIENT, held, num_retries=ATTEMPTS_MAX - 1, per_try_timeout="0.2s"),
        _route(NO_METER, complete),
        _route("/", held),
    ]
    connection_manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "hold",
        "delayed_close_timeout": "0.1s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [tries, router],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}
    listener = {"name": "all", "address": loopback, "filter_chains": [{"filters": [network_filter]}]}
    clusters = [
        *(_cluster(name, port, [_HOLD_RESPONSE]) for name, port in ports.items()),
        *(_cluster(f"unfiltered-{name}", port, []) for name, port in ports.items()),
        *(_cluster(f"all-{name}", port, own_filters) for name, port in ports.items()),
        # Nothing listens there.
        _cluster("meter", 1, []),
    ]
    return {"admin": {"address": loopback}, "static_resources": {"listeners": [listener], "clusters": clusters}}


@asynccontextmanager
async def running_envoy(directory: Path, ports: Mapping[str, int]) -> AsyncIterator[str]:
    """Starts Envoy with two workers in front of `ports`, in their order, and yields its URL."""
    config, admin, log = directory / "envoy.json", directory / "admin", directory / "envoy.log"
    config.write_text(json.dumps(_bootstrap(ports, _own_filters(directory))))
    arguments = ["--use-dynamic-base-id", "--concurrency", "2", "--admin-address-path", str(admin)]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            binaries.envoy(), "-c", config, *arguments, stdout=output, stderr=output
        )

    async def listener_address() -> str | None:
        assert process.returncode is None, log.read_text()
        return await _listener_address(admin)

    try:
        yield f"http://{await eventually_async(listener_address, _START_TIMEOUT_S)}"
    finally:
        await _stop(process)


async def _listener_address(admin: Path) -> str | None:
    """The address of Envoy's listener, None until it listens."""
    if not (admin.exists() and (host := admin.read_text())):
        return None
    async with aiohttp.ClientSession(f"http://{host}") as session, session.get("/ready") as ready:
        if ready.status != 200:
            return None
        async with session.get("/listeners") as listeners:
            return (await listeners.text()).strip().removeprefix("all::")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
