"""What several backends say, merged into one catalog. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.catalog import BackendState, Catalog, HostedModel
from gateway.model_names import canonical, is_cloud
from gateway.settings import Backend

# What /api/tags says of a model that callers are shown; nothing of the host it lies on.
_SHOWN = ("modified_at", "size", "digest", "details", "capabilities")


@dataclass(frozen=True, slots=True)
class Observation:
    """One backend's answers: version, rows of /api/tags and of /api/ps."""

    backend: Backend
    version: str | None
    tags: tuple[Mapping[str, Any], ...]
    running: tuple[Mapping[str, Any], ...]


def merge(observations: Sequence[Observation], *, allow_cloud: bool = False) -> Catalog:
    """One catalog of all backends, in configuration order. Rows that are no model are left out.

    A model of several backends is described by the first of them. Remote stubs and cloud models run elsewhere, on the
    account of the backend's owner: they are left out unless `allow_cloud`, and then too wherever another backend runs
    a model of the same name itself.
    """
    models = _hosted(observations, remote=False)
    if allow_cloud:
        models = {**_hosted(observations, remote=True), **models}
    return Catalog(
        backends=tuple(BackendState(o.backend.name, len(o.backend.urls), o.version) for o in observations),
        models=models,
        running=tuple(
            {**row, "name": name, "model": name}
            for seen in observations
            for row in seen.running
            if (name := _name(row)) is not None and not _is_remote(row, name)
        ),
    )


def _hosted(observations: Sequence[Observation], *, remote: bool) -> dict[str, HostedModel]:
    hosts: dict[str, list[str]] = {}
    tags: dict[str, dict[str, Any]] = {}
    for seen in observations:
        for row in seen.tags:
            if (name := _name(row)) is None or _is_remote(row, name) is not remote:
                continue
            places = hosts.setdefault(name, [])
            if seen.backend.name not in places:
                places.append(seen.backend.name)
            tags.setdefault(name, {key: row[key] for key in _SHOWN if key in row})
    return {name: HostedModel(name, tuple(places), tags[name], remote) for name, places in hosts.items()}


def _name(row: Mapping[str, Any]) -> str | None:
    name = row.get("model") or row.get("name")
    try:
        return canonical(name) if isinstance(name, str) else None
    except ValueError:
        return None


def _is_remote(row: Mapping[str, Any], name: str) -> bool:
    return bool(row.get("remote_host") or row.get("remote_model")) or is_cloud(name)
