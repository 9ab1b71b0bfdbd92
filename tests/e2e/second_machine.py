"""A second machine of a running stack, on loopback: its own Envoy and control, and workers reached over mutual TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from ops.host import binaries
from tests.e2e.stack import START_TIMEOUT_S, Stack, free_port
from tests.polling import eventually

MAKE_CERTIFICATES = Path(__file__).parents[2] / "deploy/tls/make-certificates"
# Short, so that a test need not wait long for what the reaper does.
LEASE_S = 2


def make_certificates(directory: Path) -> None:
    """Makes or renews them as an operator would."""
    done = subprocess.run([MAKE_CERTIFICATES, directory], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@dataclass
class Site:
    """What runs on the second machine. Ports are of loopback."""

    certificates: Path
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]]

    def url(self, port: str = "envoy") -> str:
        """The address of an HTTP port, Envoy's listener unless said otherwise."""
        return f"http://127.0.0.1:{self.ports[port]}"

    def answers(self, port: str, path: str) -> bool:
        """Whether a page says 200."""
        try:
            return httpx.get(f"{self.url(port)}{path}", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def site(stack: Stack, directory: Path) -> Iterator[Site]:
    """Starts it over the stores of `stack`, and ends what it started."""
    certificates, envoy_dir = directory / "tls", directory / "envoy"
    make_certificates(certificates)
    names = ("envoy", "admin", "control", "authz_grpc", "authz_http", "meter_grpc")
    ports = {name: free_port() for name in names}
    env = {
        **os.environ,
        "GATEWAY_ENV_FILE": stack.ready["env_file"],
        "GATEWAY_BIND_PORT": str(ports["envoy"]),
        "ENVOY_CONFIG_DIR": str(envoy_dir),
        "ENVOY_ADMIN_LISTEN": f"127.0.0.1:{ports['admin']}",
        "CONTROL_HTTP_LISTEN": f"127.0.0.1:{ports['control']}",
        "HOLD_LEASE_S": str(LEASE_S),
        "SERVICE_TLS_CA_FILE": str(certificates / "ca.crt"),
    }
    for name in ("authz_grpc", "authz_http", "meter_grpc"):
        env[f"{name.upper()}_LISTEN"] = f"127.0.0.1:{ports[name]}"
        # By name, as across machines, and not by address.
        env[f"{name.upper()}_TARGETS"] = f"localhost:{ports[name]}"

    with ExitStack() as running:
        started = Site(certificates, ports, {})

        def start(name: str, *command: str, identity: str = "") -> None:
            own = {f"SERVICE_TLS_{part}_FILE": str(certificates / f"{identity}.{end}") for part, end in _PAIR}
            log = running.enter_context((directory / f"{name}.log").open("ab"))
            process = subprocess.Popen(command, env={**env, **own}, stdout=log, stderr=log)
            running.callback(process.wait, 30)
            running.callback(process.terminate)
            started.processes[name] = process

        for name, module, identity in _SERVICES:
            start(name, sys.executable, "-P", "-m", module, identity=identity)
        eventually(lambda: started.answers("control", "/readyz"), START_TIMEOUT_S)
        bootstrap = str(envoy_dir / "bootstrap.yaml")
        start(
            "envoy", str(binaries.envoy()), "--config-path", bootstrap, "--disable-hot-restart", "--log-level", "error"
        )
        eventually(lambda: started.answers("envoy", "/readyz"), START_TIMEOUT_S)
        yield started


_PAIR = (("CERT", "crt"), ("KEY", "key"))
# Name, module and whose certificate it has: control hands Envoy's on to Envoy.
_SERVICES = (("authz", "authz", "authz"), ("meter", "meter", "meter"), ("control", "ops.control", "envoy"))
