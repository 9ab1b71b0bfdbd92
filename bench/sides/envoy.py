"""A plain Envoy: one listener, one route, one cluster, and no filter but the router."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.sides.side import Side, process, wait_until
from ops.embedded import ports
from ops.host import binaries

NAME = "envoy"
# As many worker threads as the gateway's Envoy has.
_THREADS_MAX = 4
_START_TIMEOUT_S = 30.0
_MANAGER = "envoy.filters.network.http_connection_manager"
_HTTP = "type.googleapis.com/envoy.extensions.filters"


@contextmanager
def plain_envoy(directory: Path, upstream: Side, connections_max: int) -> Iterator[Side]:
    """Runs Envoy in front of `upstream`, with at most `connections_max` connections to it."""
    port = ports.choose_free("127.0.0.1")
    bootstrap, log = directory / "envoy.json", directory / "envoy.log"
    bootstrap.write_text(json.dumps(configuration(port, upstream, connections_max)))
    threads = min(os.cpu_count() or 1, _THREADS_MAX)
    command = [str(binaries.envoy()), "--config-path", str(bootstrap), "--concurrency", str(threads)]
    command += ["--log-level", "warning", "--disable-hot-restart"]
    with process(command, log, env={"PATH": "/usr/bin:/bin"}, directory=directory) as started:
        wait_until(lambda: accepts(port), "the plain Envoy", started, log, _START_TIMEOUT_S)
        yield Side(NAME, "127.0.0.1", port, lambda: {"envoy": [started.pid]})


def configuration(port: int, upstream: Side, connections_max: int) -> dict[str, object]:
    """Envoy's bootstrap, without an admin interface and without an access log."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}}
        ],
    }
    names = ("max_connections", "max_pending_requests", "max_requests")
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(names, connections_max)]},
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream.port)}}]}],
        },
    }
    listener = {
        "name": "bench",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": _MANAGER, "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def accepts(port: int) -> bool:
    """Whether a program accepts connections on that port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
