"""Where the services of an embedded stack serve their metrics, and the list of these addresses for Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ops.embedded.configuration import Sockets
from ops.embedded.errors import StackError
from ops.embedded.state import StateDirectory
from ops.host.atomic_write import write_atomically

TARGETS_FILE = "prometheus-targets.json"
_PORT_MAX = 65_535


def addresses(metrics_listen: str | None, sockets: Sockets) -> dict[str, str]:
    """Returns the address of every service process, by its name. Pure.

    They are unix sockets, unless METRICS_LISTEN is `HOST:PORT`: then control has that port, and the workers have the
    ports after it. Raises StackError when the ports do not suffice.
    """
    workers = [f"{service}-{number}" for number in range(sockets.workers) for service in ("authz", "meter")]
    names = ["control", *workers]
    if metrics_listen is None or metrics_listen.startswith("unix:"):
        return {name: sockets.metrics(name) for name in names}
    host, _, first = metrics_listen.rpartition(":")
    if int(first) + len(names) - 1 > _PORT_MAX:
        raise StackError(f"METRICS_LISTEN={metrics_listen}: expected {len(names)} ports from this one on")
    return {name: f"{host}:{port}" for port, name in enumerate(names, int(first))}


def write(state: StateDirectory, targets: Mapping[str, str]) -> None:
    """Writes the TCP addresses to TARGETS_FILE of the state directory, for Prometheus' `file_sd_configs`.

    Prometheus cannot read unix sockets, so for these the list is empty.
    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
    """
    groups = [
        {"targets": [address], "labels": {"service": name.partition("-")[0], "process": name}}
        for name, address in targets.items()
        if not address.startswith("unix:")
    ]
    write_atomically(state.root / TARGETS_FILE, (json.dumps(groups, indent=2) + "\n").encode())
