"""Reads the metrics of the services, each process at its internal listener."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.settings import Settings
from ops.cli.top.rates import DELIVERED_TOKENS, LEASES, QUEUE_WAITING, REQUESTS, Samples, Scrape
from ops.embedded.metrics_targets import TARGETS_FILE
from ops.host import probes

_WANTED = frozenset((DELIVERED_TOKENS, LEASES, QUEUE_WAITING, REQUESTS))
_TIMEOUT_S = 2.0


def listeners(settings: Settings, state_dir: Path | None, given: Sequence[str] = ()) -> list[str]:
    """The addresses of the metrics of all processes, as `HOST:PORT` or `unix:/path`.

    These are the `given` ones, else those that `up` wrote to its state directory, else the sockets next to those of the
    workers, else METRICS_LISTEN's port of the hosts of the workers. A name stands for all its addresses, and the name
    of a socket may be a pattern.
    """
    if given:
        return _expanded(given)
    if state_dir is not None and (found := _targets_of_up(state_dir)):
        return found
    workers = (*settings.authz_grpc_targets, *settings.meter_grpc_targets)
    directories = {str(Path(each.removeprefix("unix:")).parent) for each in workers if each.startswith("unix:")}
    names = [f"unix:{directory}/*-metrics.sock" for directory in sorted(directories)]
    _, _, port = (settings.metrics_listen or "").rpartition(":")
    if port.isdecimal():
        hosts = (each.rpartition(":")[0] for each in workers if not each.startswith("unix:"))
        names += [f"{host}:{port}" for host in dict.fromkeys(hosts)]
    return _expanded(names)


async def scrape(addresses: Iterable[str]) -> Scrape:
    """The samples of each process that answers, by its address."""
    names = list(addresses)
    pages = await asyncio.gather(*(_page(address) for address in names))
    return Scrape(time.monotonic(), {name: page for name, page in zip(names, pages, strict=True) if page is not None})


async def _page(address: str) -> Samples | None:
    origin, unix = probes.split_listen(address)
    status, text = await probes.get(f"{origin}/metrics", unix=unix, timeout_s=_TIMEOUT_S)
    return parse(text) if status == 200 else None


def parse(text: str) -> Samples:
    """The samples of a page in Prometheus' text format that `top` needs. Pure."""
    wanted = "\n".join(line for line in text.splitlines() if line.partition(" ")[0].partition("{")[0] in _WANTED)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(wanted + "\n")
        for sample in family.samples
    }


def _targets_of_up(state_dir: Path) -> list[str]:
    try:
        groups = json.loads((state_dir / TARGETS_FILE).read_text())
    except (OSError, ValueError):
        return []
    return [target for group in groups for target in group["targets"]]


def _expanded(names: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        if name.startswith("unix:"):
            pattern = Path(name.removeprefix("unix:"))
            found |= dict.fromkeys(f"unix:{path}" for path in sorted(pattern.parent.glob(pattern.name)))
        else:
            found |= dict.fromkeys(_addresses(name))
    return list(found)


def _addresses(name: str) -> list[str]:
    """All addresses of `HOST:PORT`; none when the name does not resolve."""
    host, _, port = name.rpartition(":")
    try:
        resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = (str(address[0]) for *_, address in resolved)
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]
