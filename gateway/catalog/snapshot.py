"""The catalog: which models the backends host, as discovery saw it last. Made by control, read by authz.

A snapshot is whole: a reader never combines two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class BackendState:
    """One backend: in configuration order, with the number of its replicas and its Ollama version if it said one.

    `answers` is False while only its last word is known.
    """

    name: str
    replicas: int
    version: str | None
    answers: bool = True


@dataclass(frozen=True, slots=True)
class HostedModel:
    """One model under its canonical name.

    `backends` host it, in the order to try; `digests` says what each of them calls its weights, and `loaded` which of
    them have it in memory. `tag` is what /api/tags says of it on the first, `shown` what /api/show adds to that.
    `remote`: the backends do not run it themselves but send its requests on, on their owner's account.
    """

    name: str
    backends: tuple[str, ...]
    tag: Mapping[str, Any]
    remote: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    shown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Catalog:
    """One snapshot. `running` is the union of the backends' /api/ps rows. Without backends nothing is known."""

    backends: tuple[BackendState, ...]
    models: Mapping[str, HostedModel]
    running: tuple[Mapping[str, Any], ...] = ()

    def replicas_of(self, backend: str) -> int:
        """How many replicas a backend has, 1 when it is unknown."""
        return next((state.replicas for state in self.backends if state.name == backend), 1)

    def to_json(self) -> str:
        """The snapshot as it is published."""
        document = {
            "backends": [asdict(state) for state in self.backends],
            "models": [asdict(model) for model in self.models.values()],
            "running": [dict(row) for row in self.running],
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Catalog:
        """Reads a published snapshot. Raises ValueError, KeyError or TypeError when it is not one."""
        data = json.loads(text)
        models = (
            HostedModel(**{**row, "backends": tuple(row["backends"]), "loaded": tuple(row.get("loaded", ()))})
            for row in data["models"]
        )
        return cls(
            backends=tuple(BackendState(**row) for row in data["backends"]),
            models={model.name: model for model in models},
            running=tuple(data["running"]),
        )
