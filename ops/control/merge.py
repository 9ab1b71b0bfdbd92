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


def merge(observations: Sequence[Observation]) -> Catalog:
    """One catalog of all backends, in configuration order. Rows that are no model of ours are left out.

    A model of several backends is described by the first of them. Remote stubs and cloud models are left out: they
    run elsewhere, on the account of the backend's owner.
    """
    hosts: dict[str, list[str]] = {}
    tags: dict[str, dict[str, Any]] = {}
    for seen in observations:
        for row in seen.tags:
            if (name := _local_name(row)) is None:
                continue
            places = hosts.setdefault(name, [])
            if seen.backend.name not in places:
                places.append(seen.backend.name)
            tags.setdefault(name, {key: row[key] for key in _SHOWN if key in row})
    return Catalog(
        backends=tuple(BackendState(o.backend.name, len(o.backend.urls), o.version) for o in observations),
        models={name: HostedModel(name, tuple(places), tags[name]) for name, places in hosts.items()},
        running=tuple(
            {**row, "name": name, "model": name}
            for seen in observations
            for row in seen.running
            if (name := _local_name(row)) is not None
        ),
    )


def _local_name(row: Mapping[str, Any]) -> str | None:
    name = row.get("model") or row.get("name")
    if not isinstance(name, str) or row.get("remote_host") or row.get("remote_model"):
        return None
    try:
        return None if is_cloud(name) else canonical(name)
    except ValueError:
        return None
