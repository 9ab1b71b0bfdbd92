"""A second machine of a running stack, on loopback: a separate Envoy and control, and workers behind mutual TLS."""

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
from tests.e2e.stack import START_TIMEOUT_S, Stack
from tests.polling import eventually
from tests.ports import free_port

MAKE_CERTIFICATES = Path(__file__).parents[2] / "deploy/tls/make-certificates"
# Short, so that the reaper settles lost requests soon.
LEASE_S = 2


def make_certificates(directory: Path) -> None:
    """Creates or renews the certificates in `directory`, as an operator would."""
    done = subprocess.run([MAKE_CERTIFICATES, directory], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@dataclass
class SecondMachine:
    """The processes of the second machine and their loopback ports."""

    certificates: Path
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]]

    def url(self, port: str = "envoy") -> str:
        """The URL of an HTTP port; the default is Envoy's listener."""
        return f"http://127.0.0.1:{self.ports[port]}"

    def is_ok(self, port: str, path: str) -> bool:
        """Whether `path` answers with status 200."""
        try:
            return httpx.get(f"{self.url(port)}{path}", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def second_machine(stack: Stack, directory: Path) -> Iterator[SecondMachine]:
    """Starts the machine on the stores of `stack` and stops it when the context ends."""
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
        # Across machines, targets are names and not addresses.
        env[f"{name.upper()}_TARGETS"] = f"localhost:{ports[name]}"

    with ExitStack() as running:
        machine = SecondMachine(certificates, ports, {})

        def start(name: str, *command: str, identity: str = "") -> None:
            own = {
                f"SERVICE_TLS_{part}_FILE": str(certificates / f"{identity}.{suffix}")
                for part, suffix in _CERTIFICATE_FILES
            }
            log = running.enter_context((directory / f"{name}.log").open("ab"))
            process = subprocess.Popen(command, env={**env, **own}, stdout=log, stderr=log)
            running.callback(process.wait, 30)
            running.callback(process.terminate)
            machine.processes[name] = process

        for name, module, identity in _SERVICES:
            start(name, sys.executable, "-P", "-m", module, identity=identity)
        eventually(lambda: machine.is_ok("control", "/readyz"), START_TIMEOUT_S)
        bootstrap = str(envoy_dir / "bootstrap.yaml")
        start(
            "envoy", str(binaries.envoy()), "--config-path", bootstrap, "--disable-hot-restart", "--log-level", "error"
        )
        eventually(lambda: machine.is_ok("envoy", "/readyz"), START_TIMEOUT_S)
        yield machine


_CERTIFICATE_FILES = (("CERT", "crt"), ("KEY", "key"))
# Name, module and owner of its certificate. Control passes Envoy's certificate on to Envoy.
_SERVICES = (("authz", "authz", "authz"), ("meter", "meter", "meter"), ("control", "ops.control", "envoy"))
