"""Merges the observations of several backends into one catalog. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.request.model_name import canonical, is_cloud
from gateway.settings.backend import Backend

# The fields of /api/tags and /api/ps that callers see. None of them describes the host of the model.
_SHOWN = ("modified_at", "size", "digest", "details", "capabilities")
_RUNNING_SHOWN = ("size", "digest", "details", "expires_at", "size_vram", "context_length")


# Model -> backend -> its row.
Rows = dict[str, dict[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Observation:
    """One backend's answers: version, rows of /api/tags and of /api/ps.

    `answers` is False when the backend does not answer any more and this is its last observation.
    """

    backend: Backend
    version: str | None
    tags: tuple[Mapping[str, Any], ...]
    running: tuple[Mapping[str, Any], ...]
    answers: bool = True


def merge(
    observations: Sequence[Observation],
    descriptions: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    allow_cloud: bool = False,
) -> Catalog:
    """One catalog of all backends, in configuration order. Rows without a valid model name are left out.

    A model of several backends has the details of the first one, by its digest there if `descriptions` contains it.
    Remote stubs and cloud models run elsewhere, on the account of the backend's owner. They are left out unless
    `allow_cloud`, and also then where another backend runs a model of the same name itself. For a backend that does not
    answer, the models in memory are unknown.
    """
    tags: Rows = {}
    stubs: Rows = {}
    running: Rows = {}
    for seen in observations:
        for row in seen.tags:
            if (name := _name(row)) is not None:
                rows = stubs if _is_remote(row, name) else tags
                rows.setdefault(name, {}).setdefault(seen.backend.name, row)
        for row in seen.running if seen.answers else ():
            if (name := _name(row)) is not None and not _is_remote(row, name):
                running.setdefault(name, {}).setdefault(seen.backend.name, row)
    remote = {name: _remote(name, rows) for name, rows in stubs.items()} if allow_cloud else {}
    local = {name: _hosted(name, rows, running.get(name, {}), descriptions) for name, rows in tags.items()}
    return Catalog(
        backends=tuple(_state(seen) for seen in observations),
        models={**remote, **local},
        running=tuple(
            {"name": (spelling := _spelling(row, name)), "model": spelling, **_picked(row, _RUNNING_SHOWN)}
            for name, rows in running.items()
            for row in rows.values()
        ),
    )


def _state(seen: Observation) -> BackendState:
    backend = seen.backend
    return BackendState(
        backend.name, len(backend.urls), seen.version, seen.answers, backend.addresses, backend.slots_given
    )


def first_hosts(observations: Sequence[Observation]) -> dict[str, tuple[Backend, str]]:
    """Digest -> the first answering backend that has these weights, and its name for the model."""
    hosts: dict[str, tuple[Backend, str]] = {}
    for seen in observations:
        for row in seen.tags if seen.answers else ():
            digest = row.get("digest")
            name = _name(row)
            if isinstance(digest, str) and name is not None and not _is_remote(row, name):
                hosts.setdefault(digest, (seen.backend, name))
    return hosts


def _hosted(
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    running: Mapping[str, Mapping[str, Any]],
    descriptions: Mapping[str, Mapping[str, Any]],
) -> HostedModel:
    tag = _tag(name, rows)
    digests = {backend: digest for backend, row in rows.items() if isinstance(digest := row.get("digest"), str)}
    return HostedModel(
        name=name,
        backends=tuple(rows),
        tag=tag,
        digests=digests,
        loaded=tuple(backend for backend in rows if backend in running),
        shown=descriptions.get(str(tag.get("digest")), {}),
        contexts=_contexts({backend: running[backend] for backend in rows if backend in running}),
    )


def _contexts(running: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    lengths = {backend: row.get("context_length") for backend, row in running.items()}
    return {backend: length for backend, length in lengths.items() if type(length) is int and length > 0}


def _remote(name: str, rows: Mapping[str, Mapping[str, Any]]) -> HostedModel:
    return HostedModel(name, tuple(rows), _tag(name, rows), remote=True)


def _tag(name: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What callers see of the first backend's row, under the name by which that backend lists the model."""
    row = next(iter(rows.values()))
    spelling = _spelling(row, name)
    return {"name": spelling, "model": spelling, **_picked(row, _SHOWN)}


def _picked(row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: row[key] for key in keys if key in row}


def _spelling(row: Mapping[str, Any], name: str) -> str:
    """The name in a row that has the canonical `name`, with its tag."""
    spelling = str(row.get("model") or row.get("name"))
    return spelling if spelling.lower() == name else name


def _name(row: Mapping[str, Any]) -> str | None:
    name = row.get("model") or row.get("name")
    try:
        return canonical(name) if isinstance(name, str) else None
    except ValueError:
        return None


def _is_remote(row: Mapping[str, Any], name: str) -> bool:
    return bool(row.get("remote_host") or row.get("remote_model")) or is_cloud(name)
