"""The settings of the embedded stack: which lines of its env file it decides, and what its children inherit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from gateway.settings import Settings, load
from ops.embedded import stores
from ops.embedded.errors import StackError
from ops.embedded.options import HostPort, Options
from ops.embedded.state import State
from ops.host import env_file

DEFAULT_LISTEN = HostPort("127.0.0.1", 8080)
DEFAULT_BACKEND = "http://127.0.0.1:11434"
_PREFACE = (
    "# The configuration of this embedded stack. Lines that you add or change are kept;\n"
    "# addresses, sockets and passwords of its own servers are set by `neuronetz-gateway up`.\n"
)
# What programs of this machine go by; everything else of the environment stays outside.
_SYSTEM = ("HOME", "LANG", "LC_ALL", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ")


@dataclass(frozen=True)
class Sockets:
    """The unix sockets of the workers and of Envoy's admin interface."""

    state: State
    workers: int

    def authz_grpc(self, worker: int) -> str:
        """Where worker number `worker` answers Envoy's checks."""
        return self._address(f"authz-{worker}.sock")

    def authz_http(self, worker: int) -> str:
        """Where it serves the catalog."""
        return self._address(f"authz-{worker}-http.sock")

    def meter_grpc(self, worker: int) -> str:
        """Where the meter's worker takes Envoy's streams."""
        return self._address(f"meter-{worker}.sock")

    def envoy_admin(self) -> str:
        """Envoy's admin interface."""
        return self._address("envoy-admin.sock")

    def env(self) -> dict[str, str]:
        """The settings that say so to Envoy's files and to control."""
        numbers = range(self.workers)
        return {
            "AUTHZ_GRPC_TARGETS": ",".join(map(self.authz_grpc, numbers)),
            "AUTHZ_HTTP_TARGETS": ",".join(map(self.authz_http, numbers)),
            "METER_GRPC_TARGETS": ",".join(map(self.meter_grpc, numbers)),
            "ENVOY_ADMIN_LISTEN": self.envoy_admin(),
            "ENVOY_CONFIG_DIR": str(self.state.envoy),
        }

    def _address(self, name: str) -> str:
        return f"unix:{self.state.run / name}"


def listen_address(options: Options, known: Mapping[str, str]) -> HostPort:
    """Where Envoy listens: the option, else the env file, else the default."""
    if options.listen is not None:
        return options.listen.settled()
    host, port = known.get("GATEWAY_BIND_HOST"), known.get("GATEWAY_BIND_PORT")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        raise StackError(f"GATEWAY_BIND_PORT={port!r}: expected a port from 1 to 65535")
    return HostPort(host or DEFAULT_LISTEN.host, int(port) if port else DEFAULT_LISTEN.port)


def write(state: State, options: Options, listen: HostPort, at: stores.Addresses) -> Sockets:
    """Brings the env file up to date with what this start decides; all other lines stay as they are."""
    known = env_file.read(state.env_file)
    sockets = Sockets(state, options.workers)
    values = {
        **{name: value for name, value in options.defaults.items() if name not in known},
        "GATEWAY_BIND_HOST": listen.host,
        "GATEWAY_BIND_PORT": str(listen.port),
        **at.env(),
        **sockets.env(),
    }
    if options.backends:
        values["OLLAMA_BACKENDS"] = json.dumps(backends(known.get("OLLAMA_BACKENDS", ""), options.backends))
    elif not {"OLLAMA_BASE_URL", "OLLAMA_BACKENDS"} & known.keys():
        values["OLLAMA_BASE_URL"] = DEFAULT_BACKEND
    if not state.env_file.exists():
        env_file.write(state.env_file, _PREFACE)
    env_file.update(state.env_file, values)
    return sockets


def backends(known: str, wanted: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """The wanted (name, URL) pairs as OLLAMA_BACKENDS takes them.

    One that is `known` under the same name and URL keeps its other fields; a token never follows a name to another URL.
    """
    try:
        entries = json.loads(known) if known.strip() else []
    except json.JSONDecodeError:
        entries = []
    kept = {(entry.get("name"), entry.get("base_url")): entry for entry in entries if isinstance(entry, dict)}
    return [kept.get((name, url), {"name": name, "base_url": url}) for name, url in wanted]


def decided(options: Options) -> set[str]:
    """Names of the settings that a variable of the environment may not override in an embedded stack."""
    names = {
        "GATEWAY_BIND_HOST",
        "GATEWAY_BIND_PORT",
        "DATABASE_URL",
        "DATABASE_LISTEN_URL",
        "DATABASE_REPORT_URL",
        "DATABASE_SERVICE_ROLE",
        "DATABASE_SERVICE_PASSWORD",
        "REDIS_URL",
        "AUTHZ_GRPC_LISTEN",
        "AUTHZ_HTTP_LISTEN",
        "METER_GRPC_LISTEN",
        "AUTHZ_GRPC_TARGETS",
        "AUTHZ_HTTP_TARGETS",
        "METER_GRPC_TARGETS",
        "ENVOY_ADMIN_LISTEN",
        "ENVOY_CONFIG_DIR",
    }
    return names | {"OLLAMA_BACKENDS"} if options.backends else names


def inherited(environ: Mapping[str, str], options: Options) -> dict[str, str]:
    """What the gateway's own services get of the environment: the system's variables, and settings that are free."""
    free = {name.upper() for name in Settings.model_fields} - decided(options)
    return {name: value for name, value in environ.items() if name in _SYSTEM or name.upper() in free}


def settings(state: State, environ: MutableMapping[str, str], options: Options) -> Settings:
    """The settings as the services will read them; raises SettingsError. `environ` is this process's environment."""
    overridden = {name: environ.pop(name) for name in list(environ) if name.upper() in decided(options)}
    try:
        return load(state.env_file)
    finally:
        environ.update(overridden)
