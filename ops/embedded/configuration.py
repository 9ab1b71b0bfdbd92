"""The settings of the embedded stack: the env file lines that it manages, and the environment of its children."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.settings import Settings, load
from ops.embedded.errors import StackError
from ops.embedded.options import HostPort, StackOptions
from ops.embedded.state import StateDirectory
from ops.host import env_file

if TYPE_CHECKING:
    # The stores import their drivers and the migrations, which commands without them need not load.
    from ops.embedded.stores import Addresses

DEFAULT_LISTEN = HostPort("127.0.0.1", 8080)
TLS_VARIABLE = "UP_TLS_LISTEN"
"""The line of the env file with the last address of `--tls`."""
PLAYGROUND_VARIABLE = "PLAYGROUND_ENABLED"
DEFAULT_BACKEND = "http://127.0.0.1:11434"
_PREFACE = (
    "# The configuration of this embedded stack. Lines that you add or change are kept.\n"
    "# `neuronetz-gateway up` sets the addresses, sockets and passwords of the embedded servers.\n"
)
# Variables that programs of this machine depend on. No other variable is inherited, except settings.
_SYSTEM = ("HOME", "LANG", "LC_ALL", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ")


@dataclass(frozen=True)
class Sockets:
    """The unix sockets of the workers and of Envoy's admin interface."""

    state: StateDirectory
    workers: int

    def authz_grpc(self, worker: int) -> str:
        """The address where worker number `worker` answers Envoy's checks."""
        return self._address(f"authz-{worker}.sock")

    def authz_http(self, worker: int) -> str:
        """The address where that worker serves the catalog."""
        return self._address(f"authz-{worker}-http.sock")

    def meter_grpc(self, worker: int) -> str:
        """The address where worker number `worker` of the meter accepts Envoy's streams."""
        return self._address(f"meter-{worker}.sock")

    def metrics(self, process: str) -> str:
        """The address where the process of this name, such as `authz-0`, serves its metrics by default."""
        return self._address(f"{process}-metrics.sock")

    def envoy_admin(self) -> str:
        """The address of Envoy's admin interface."""
        return self._address("envoy-admin.sock")

    def env(self) -> dict[str, str]:
        """The settings with these addresses, for control and the files of Envoy."""
        numbers = range(self.workers)
        return {
            "AUTHZ_GRPC_TARGETS": ",".join(map(self.authz_grpc, numbers)),
            "AUTHZ_HTTP_TARGETS": ",".join(map(self.authz_http, numbers)),
            "METER_GRPC_TARGETS": ",".join(map(self.meter_grpc, numbers)),
            "ENVOY_ADMIN_LISTEN": self.envoy_admin(),
            "ENVOY_CONFIG_DIR": str(self.state.envoy),
        }

    def _address(self, name: str) -> str:
        return f"unix:{self.state.sockets / name}"


def listen_address(options: StackOptions, current: Mapping[str, str]) -> HostPort:
    """Returns the address of Envoy from the option, else from the `current` env file, else the default.

    Raises StackError for an invalid GATEWAY_BIND_PORT.
    """
    if options.listen is not None:
        return options.listen.with_free_port()
    host, port = current.get("GATEWAY_BIND_HOST"), current.get("GATEWAY_BIND_PORT")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        raise StackError(f"GATEWAY_BIND_PORT={port!r}: expected a port from 1 to 65535")
    return HostPort(host or DEFAULT_LISTEN.host, int(port) if port else DEFAULT_LISTEN.port)


def tls_address(options: StackOptions, current: Mapping[str, str]) -> HostPort | None:
    """Returns the address of Caddy from the option, else from the `current` env file; None for no Caddy."""
    if options.no_tls:
        return None
    return options.tls.with_free_port() if options.tls else stored_tls_address(current)


def stored_tls_address(current: Mapping[str, str]) -> HostPort | None:
    """Returns the address of Caddy that the `current` env file has. Raises StackError for an invalid one."""
    text = current.get(TLS_VARIABLE)
    try:
        return HostPort.parse(text) if text else None
    except ValueError as error:
        raise StackError(f"{TLS_VARIABLE}: {error}") from None


def removed_backends(options: StackOptions, current: Mapping[str, str]) -> list[str]:
    """Returns the names in the `current` list of backends that `options` replaces without naming them."""
    names = [str(entry.get("name")) for entry in _entries(current.get("OLLAMA_BACKENDS", ""))]
    wanted = {name.lower() for name, _ in options.backends}
    return [name for name in names if name.lower() not in wanted] if options.backends else []


def write_env_file(
    state: StateDirectory,
    options: StackOptions,
    listen: HostPort,
    addresses: Addresses,
    tls: HostPort | None = None,
) -> Sockets:
    """Writes the settings that this start determines to the env file, and keeps all other lines."""
    current = env_file.read(state.env_file)
    sockets = Sockets(state, options.workers)
    values = {
        **{name: value for name, value in options.defaults.items() if name not in current},
        "GATEWAY_BIND_HOST": listen.host,
        "GATEWAY_BIND_PORT": str(listen.port),
        **({TLS_VARIABLE: str(tls or "")} if tls or TLS_VARIABLE in current else {}),
        **addresses.env(),
        **sockets.env(),
    }
    if options.playground is not None:
        values[PLAYGROUND_VARIABLE] = str(options.playground).lower()
    if options.backends:
        values["OLLAMA_BACKENDS"] = json.dumps(merge_backends(current.get("OLLAMA_BACKENDS", ""), options.backends))
    elif not {"OLLAMA_BASE_URL", "OLLAMA_BACKENDS"} & current.keys():
        values["OLLAMA_BASE_URL"] = DEFAULT_BACKEND
    if not state.env_file.exists():
        env_file.write(state.env_file, _PREFACE)
    env_file.update(state.env_file, values)
    return sockets


def merge_backends(current: str, wanted: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Returns the wanted (name, URL) pairs as the value of OLLAMA_BACKENDS.

    A pair with the same name and URL in `current`, the present value, keeps its other fields. A token never follows a
    name to another URL.
    """
    kept = {(entry.get("name"), entry.get("base_url")): entry for entry in _entries(current)}
    return [kept.get((name, url), {"name": name, "base_url": url}) for name, url in wanted]


def _entries(text: str) -> list[dict[str, Any]]:
    """The objects of a value of OLLAMA_BACKENDS; none for a value that is not a JSON list."""
    try:
        entries = json.loads(text) if text.strip() else []
    except json.JSONDecodeError:
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def managed_settings(options: StackOptions) -> set[str]:
    """Names of the settings that the stack sets itself, so that no variable of the environment may override them."""
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
    if options.backends:
        names.add("OLLAMA_BACKENDS")
    if options.playground is not None:
        names.add(PLAYGROUND_VARIABLE)
    return names


def inherited_environment(environ: Mapping[str, str], options: StackOptions) -> dict[str, str]:
    """Returns the variables that the gateway's services inherit: those of the system, and settings not managed here."""
    free = {name.upper() for name in Settings.model_fields} - managed_settings(options)
    return {name: value for name, value in environ.items() if name in _SYSTEM or name.upper() in free}


def load_settings(state: StateDirectory, environ: MutableMapping[str, str], options: StackOptions) -> Settings:
    """Loads the settings as the services will load them. `environ` is the environment of this process.

    Raises SettingsError.
    """
    overridden = {name: environ.pop(name) for name in list(environ) if name.upper() in managed_settings(options)}
    try:
        return load(state.env_file)
    finally:
        environ.update(overridden)
