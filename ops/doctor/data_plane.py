"""Checks Envoy: its files, its clusters as its admin interface reports them, and the public listeners."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.wire.names import cluster_name
from ops.data_plane.cds import parse
from ops.data_plane.envoy_files import CLUSTERS_FILE, clusters_of, render, render_authorities, render_secrets
from ops.doctor.check import ANSWER_TIMEOUT_S, Check, failed, ok, warning
from ops.host import probes
from ops.host.client_environment import base_url

_NAME = "envoy"
_SERVICES = ("authz", "meter", "catalog")


async def check(settings: Settings, public_url: str, ca_file: Path | None) -> list[Check]:
    """Checks the files, the admin interface with its clusters, and a request through each public listener.

    `ca_file` verifies an https `public_url`.
    """
    listeners = await _check_listeners(settings, public_url, ca_file)
    return [_check_files(settings), *await _check_admin(settings), *listeners]


def _check_files(settings: Settings) -> Check:
    directory = settings.envoy_config_dir
    remedy = "start control with these settings; it writes the files"
    try:
        expected = {**render(settings, directory), **render_secrets(settings), **render_authorities(settings)}
        actual = {name: _content_of(directory / name) for name in expected}
    except SettingsError as error:
        return failed(_NAME, str(error), "fix the file, or the backend's ca_file")
    except PermissionError:
        return failed(_NAME, f"{directory} cannot be read", "run doctor as the user that runs control")
    if missing := [name for name, content in actual.items() if content is None]:
        return failed(_NAME, f"{directory} has no {', '.join(missing)}", remedy)
    if stale := [name for name, content in actual.items() if content != expected[name] and name != CLUSTERS_FILE]:
        return warning(_NAME, f"{', '.join(stale)} in {directory} differs from the settings", remedy)
    # The file may still hold clusters of backends that were removed a moment ago.
    if absent := clusters_of(settings, directory).keys() - parse(actual[CLUSTERS_FILE] or b"").keys():
        return warning(_NAME, f"{CLUSTERS_FILE} in {directory} has no {', '.join(sorted(absent))}", remedy)
    return ok(_NAME, f"its files in {directory} match the settings")


def _content_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


async def _check_admin(settings: Settings) -> list[Check]:
    listen = settings.envoy_admin_listen
    origin, unix = probes.split_listen(listen)
    status, text = await probes.get(f"{origin}/ready", unix=unix, timeout_s=ANSWER_TIMEOUT_S)
    if status == 0:
        start = f"envoy --config-path {settings.envoy_config_dir}/bootstrap.yaml"
        remedy = f"{start}; if it runs on another machine, run doctor there"
        return [failed(_NAME, f"its admin interface at {listen} does not answer", remedy)]
    if status != 200:
        return [failed(_NAME, f"it is not ready: {text.strip()[:80]}", "see Envoy's log")]
    status, text = await probes.get(f"{origin}/clusters?format=json", unix=unix, timeout_s=ANSWER_TIMEOUT_S)
    if status != 200:
        return [failed(_NAME, "its admin interface does not report its clusters", "see Envoy's log")]
    return [ok(_NAME, "live"), *assess_clusters(settings, json.loads(text))]


def assess_clusters(settings: Settings, document: Mapping[str, Any]) -> list[Check]:
    """Checks in Envoy's `/clusters` document that every service and every backend has a healthy host."""
    hosts = {status["name"]: _host_health(status) for status in document.get("cluster_statuses", [])}
    expected = {name: f"cluster {name}" for name in _SERVICES}
    expected |= {cluster_name(backend.name): f"cluster {backend.name}" for backend in settings.backends}
    checks = []
    for cluster, name in expected.items():
        healthy, total = sum(hosts.get(cluster, [])), len(hosts.get(cluster, []))
        detail = f"{healthy} of {total} hosts healthy"
        if cluster not in hosts:
            checks.append(failed(name, "Envoy does not know it", "check that control writes Envoy's files"))
        elif healthy == total:
            checks.append(ok(name, detail))
        else:
            report = warning if healthy or cluster not in _SERVICES else failed
            hosts_kind = "workers" if cluster in _SERVICES else "replicas"
            checks.append(report(name, detail, f"start the missing {hosts_kind}; Envoy picks them up automatically"))
    return checks


def _host_health(status: Mapping[str, Any]) -> list[bool]:
    """Whether each host is healthy. The tombstone, a host of priority 1 that denies every request, is left out."""
    return [
        host.get("health_status", {}).get("eds_health_status", "HEALTHY") == "HEALTHY"
        and not any(value is True for value in host.get("health_status", {}).values())
        for host in status.get("host_statuses", [])
        if not host.get("priority")
    ]


async def _check_listeners(settings: Settings, public_url: str, ca_file: Path | None) -> list[Check]:
    direct = base_url(settings.model_copy(update={"gateway_domain": "localhost"}))
    remedy = "check whether Envoy runs and whether another program uses its port"
    checks = [await _check_health("listener", direct, remedy)]
    if public_url.startswith("https://"):
        remedy = "see Caddy's log, and check that the name of the address resolves to this machine"
        checks.append(await _check_health("tls", public_url, remedy, ca_file))
    return checks


async def _check_health(name: str, url: str, remedy: str, ca_file: Path | None = None) -> Check:
    status, _ = await probes.get(f"{url}/healthz", ca_file=ca_file, timeout_s=ANSWER_TIMEOUT_S)
    if status == 200:
        return ok(name, f"{url} answers")
    return failed(name, f"{url} {f'returns {status}' if status else 'does not answer'}", remedy)
