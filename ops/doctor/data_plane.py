"""Envoy: its files, its own view of our services and the backends, and the way in, through Caddy where there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.wire.names import cluster_name
from ops.data_plane.cds import parse
from ops.data_plane.envoy_files import CLUSTERS_FILE, clusters, render, render_authorities, render_secrets
from ops.doctor.check import ANSWER_TIMEOUT_S, Check, failed, ok, warning
from ops.host import probes
from ops.host.client_environment import base_url

_NAME = "envoy"
_SERVICES = ("authz", "meter", "catalog")


async def check(settings: Settings) -> list[Check]:
    """Files, admin interface, clusters, and a question through the listener."""
    return [_check_files(settings), *await _check_admin(settings), *await _check_entrance(settings)]


def _check_files(settings: Settings) -> Check:
    directory = settings.envoy_config_dir
    remedy = "start control, which writes them, with these settings"
    try:
        wanted = {**render(settings, directory), **render_secrets(settings), **render_authorities(settings)}
        found = {name: _content(directory / name) for name in wanted}
    except SettingsError as error:
        return failed(_NAME, str(error), "remedy the file, or the backend's ca_file")
    except PermissionError:
        return failed(_NAME, f"{directory} may not be read", "run doctor as the user that control runs as")
    if missing := [name for name, content in found.items() if content is None]:
        return failed(_NAME, f"{directory} has no {', '.join(missing)}", remedy)
    if stale := [name for name, content in found.items() if content != wanted[name] and name != CLUSTERS_FILE]:
        return warning(_NAME, f"{', '.join(stale)} in {directory} say something else than the settings", remedy)
    # Clusters of backends that have just gone may still be among them.
    if lacking := clusters(settings, directory).keys() - parse(found[CLUSTERS_FILE] or b"").keys():
        return warning(_NAME, f"{CLUSTERS_FILE} in {directory} has no {', '.join(sorted(lacking))}", remedy)
    return ok(_NAME, f"its files in {directory} are those of the settings")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


async def _check_admin(settings: Settings) -> list[Check]:
    listen = settings.envoy_admin_listen
    origin, unix = probes.split_listen(listen)
    status, text = await probes.get(f"{origin}/ready", unix=unix, timeout_s=ANSWER_TIMEOUT_S)
    if status == 0:
        remedy = (
            f"envoy --config-path {settings.envoy_config_dir}/bootstrap.yaml; if it runs elsewhere, run doctor there"
        )
        return [failed(_NAME, f"its admin interface at {listen} does not answer", remedy)]
    if status != 200:
        return [failed(_NAME, f"it is not ready: {text.strip()[:80]}", "see Envoy's log")]
    status, text = await probes.get(f"{origin}/clusters?format=json", unix=unix, timeout_s=ANSWER_TIMEOUT_S)
    if status != 200:
        return [failed(_NAME, "it does not say how its clusters are", "see Envoy's log")]
    return [ok(_NAME, "live"), *judge_clusters(settings, json.loads(text))]


def judge_clusters(settings: Settings, document: Mapping[str, Any]) -> list[Check]:
    """What Envoy's /clusters says: every service and every backend has a healthy host."""
    hosts = {status["name"]: _real_hosts(status) for status in document.get("cluster_statuses", [])}
    wanted = {name: f"cluster {name}" for name in _SERVICES}
    wanted |= {cluster_name(backend.name): f"cluster {backend.name}" for backend in settings.backends}
    checks = []
    for cluster, name in wanted.items():
        healthy, total = sum(hosts.get(cluster, [])), len(hosts.get(cluster, []))
        detail = f"{healthy} of {total} hosts healthy"
        if cluster not in hosts:
            checks.append(failed(name, "Envoy does not know it", "see whether control writes Envoy's files"))
        elif healthy == total:
            checks.append(ok(name, detail))
        else:
            bad = warning if healthy or cluster not in _SERVICES else failed
            checks.append(bad(name, detail, "start those that are away; Envoy takes them up by itself"))
    return checks


def _real_hosts(status: Mapping[str, Any]) -> list[bool]:
    """Whether each host is healthy; the endpoint that always refuses, of priority 1, is none."""
    return [
        host.get("health_status", {}).get("eds_health_status", "HEALTHY") == "HEALTHY"
        and not any(value is True for value in host.get("health_status", {}).values())
        for host in status.get("host_statuses", [])
        if not host.get("priority")
    ]


async def _check_entrance(settings: Settings) -> list[Check]:
    direct = base_url(settings.model_copy(update={"gateway_domain": "localhost"}))
    checks = [await _asked("listener", direct, "see whether Envoy runs, and what takes its port")]
    if (public := base_url(settings)) != direct:
        checks.append(await _asked("tls", public, "see Caddy's log, and whether the name leads to this machine"))
    return checks


async def _asked(name: str, url: str, remedy: str) -> Check:
    status, _ = await probes.get(f"{url}/healthz", timeout_s=ANSWER_TIMEOUT_S)
    if status == 200:
        return ok(name, f"{url} answers")
    return failed(name, f"{url} {f'answers {status}' if status else 'does not answer'}", remedy)
