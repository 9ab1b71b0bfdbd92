"""Descriptions of the children that use the stores: the gateway's services, Envoy and Caddy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import ops
from gateway.settings import Settings
from ops.embedded import metrics_targets
from ops.embedded.child import Child
from ops.embedded.configuration import Sockets
from ops.embedded.options import HostPort
from ops.embedded.state import StateDirectory
from ops.host import binaries, probes
from ops.host.probes import Probe

# The time that a service needs to close its connections after the grace period of its requests.
_CLOSING_S = 5.0
_ENVOY_THREADS_MAX = 4
_CADDYFILE = Path(ops.__file__).with_name("caddy") / "Caddyfile"


def python_service(
    name: str,
    module: tuple[str, ...],
    state: StateDirectory,
    env: Mapping[str, str],
    ready: Probe,
    stop_grace_s: float = 10.0,
) -> Child:
    """Describes a service that runs a module of this distribution with arguments."""
    return Child(
        name=name,
        argv=module,
        forked=True,
        env=env,
        cwd=state.root,
        log=state.log_file(name),
        ready=ready,
        stop_grace_s=stop_grace_s,
    )


def gateway_services(
    settings: Settings, state: StateDirectory, sockets: Sockets, env: Mapping[str, str], service_env: Mapping[str, str]
) -> list[Child]:
    """Describes every authz and meter worker, each with its own sockets, and control.

    `service_env` is added to `env` for authz and meter.
    """
    grace_s = settings.gateway_shutdown_grace_s + _CLOSING_S
    metrics = metrics_targets.addresses(settings.metrics_listen, sockets)
    children = []
    for number in range(sockets.workers):
        grpc, http, meter = sockets.authz_grpc(number), sockets.authz_http(number), sockets.meter_grpc(number)
        name = f"authz-{number}"
        listen = {"AUTHZ_GRPC_LISTEN": grpc, "AUTHZ_HTTP_LISTEN": http, "METRICS_LISTEN": metrics[name]}
        ready = probes.accepts_connections(grpc, http)
        children.append(python_service(name, ("authz",), state, {**env, **service_env, **listen}, ready, grace_s))
        name = f"meter-{number}"
        listen = {"METER_GRPC_LISTEN": meter, "METRICS_LISTEN": metrics[name]}
        ready = probes.accepts_connections(meter)
        children.append(python_service(name, ("meter",), state, {**env, **service_env, **listen}, ready, grace_s))
    listen = {"METRICS_LISTEN": metrics["control"]}
    control = python_service("control", ("ops.control",), state, {**env, **listen}, probes.always_ready(), grace_s)
    return [*children, control]


def envoy(settings: Settings, state: StateDirectory, sockets: Sockets) -> Child:
    """Describes Envoy, which reads the files of the state directory and drains its requests before it stops."""
    threads = min(os.cpu_count() or 1, _ENVOY_THREADS_MAX)
    admin = sockets.envoy_admin()
    return Child(
        name="envoy",
        argv=(
            str(binaries.envoy()),
            "--config-path",
            str(state.envoy / "bootstrap.yaml"),
            "--concurrency",
            str(threads),
            "--log-level",
            "warning",
            # No successor takes over, so no shared memory is needed that a crash would leave allocated.
            "--disable-hot-restart",
        ),
        env={"PATH": "/usr/bin:/bin", "HOME": str(state.root)},
        cwd=state.root,
        log=state.log_file("envoy"),
        ready=probes.returns_ok("http://envoy/ready", unix=admin),
        drain=probes.envoy_drain(admin, settings.gateway_shutdown_grace_s),
    )


def caddy(settings: Settings, state: StateDirectory, tls: HostPort, upstream: HostPort) -> Child:
    """Describes Caddy, with certificates of a local authority for the address, `localhost` and the domain.

    For a wildcard they are for loopback and for the address by which other machines reach this one.
    """
    names = dict.fromkeys((tls.reachable().host, tls.outward().host, "localhost", settings.gateway_domain))
    return Child(
        name="caddy",
        argv=(str(binaries.caddy()), "run", "--config", str(_CADDYFILE), "--adapter", "caddyfile"),
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(state.caddy),
            "XDG_DATA_HOME": str(state.caddy),
            "XDG_CONFIG_HOME": str(state.caddy),
            "CADDY_SITES": ", ".join(f"https://{HostPort(name, tls.port)}" for name in names),
            "CADDY_BIND": tls.host,
            "CADDY_TLS": "internal",
            "CADDY_UPSTREAM": str(upstream),
            "CADDY_GRACE": f"{settings.gateway_shutdown_grace_s:.3f}s",
        },
        cwd=state.caddy,
        log=state.log_file("caddy"),
        ready=probes.responds(f"https://{tls.reachable()}/healthz", authority_root(state)),
        stop_grace_s=settings.gateway_shutdown_grace_s + _CLOSING_S,
    )


def authority_root(state: StateDirectory) -> Path:
    """Returns the path at which Caddy stores the certificate of its local authority."""
    return state.caddy / "caddy/pki/authorities/local/root.crt"
