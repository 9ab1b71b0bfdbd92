"""The catalog: the models that the backends host, as of the last discovery. control writes it, authz reads it.

A snapshot is complete: a reader never combines two of them.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.catalog.modelfile import integer_parameter


@dataclass(frozen=True, slots=True)
class BackendState:
    """One backend: its name, the number of its replicas, and its Ollama version if it reported one.

    `answers` is False while the backend does not answer and its last known state is used. `addresses` are the
    `HOST[:PORT]` of its replicas, and each of them runs `slots` requests at a time, 0 for a number that is learnt.
    """

    name: str
    replicas: int
    version: str | None
    answers: bool = True
    addresses: tuple[str, ...] = ()
    slots: int = 0


@dataclass(frozen=True, slots=True)
class HostedModel:
    """One model under its canonical name.

    `backends` are the names of the backends that host it, in the order to try. `digests` maps a backend to its digest
    of the model, and `loaded` names the backends that have it in memory. `tag` is the model's object in /api/tags of
    the first backend, `shown` are the fields that /api/show adds. `remote` means that the backends forward its requests
    to another service on their owner's account. `contexts` maps a backend that has the model in memory to its
    context in tokens.
    """

    name: str
    backends: tuple[str, ...]
    tag: Mapping[str, Any]
    remote: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    shown: Mapping[str, Any] = field(default_factory=dict)
    contexts: Mapping[str, int] = field(default_factory=dict)

    @property
    def spelling(self) -> str:
        """The name as the first backend spells it, such as `PetrosStav/gemma3-tools:4b`; lists show this one."""
        name = self.tag.get("name")
        return name if isinstance(name, str) else self.name

    @property
    def context_tokens(self) -> int | None:
        """The context in force: the smallest in memory of a backend, else the Modelfile's `num_ctx`, else None."""
        if self.contexts:
            return min(self.contexts.values())
        tokens = integer_parameter(self.shown.get("parameters"), "num_ctx")
        return tokens if tokens is not None and tokens > 0 else None

    @property
    def context_source(self) -> str:
        """Where `context_tokens` comes from: `memory`, `Modelfile` or `unknown`."""
        if self.contexts:
            return "memory"
        return "unknown" if self.context_tokens is None else "Modelfile"

    @property
    def own_output_tokens(self) -> int | None:
        """The output cap in the Modelfile (`num_predict`), None when there is none or it means unlimited."""
        tokens = integer_parameter(self.shown.get("parameters"), "num_predict")
        return tokens if tokens is not None and tokens > 0 else None


@dataclass(frozen=True, slots=True)
class Catalog:
    """One snapshot, with the backends in the order of the configuration.

    `running` is the union of the backends' /api/ps rows. A snapshot without backends means that nothing is known. One
    with backends of which none answers, and without models, means that they have not answered for too long.
    `derived` is what its reader has concluded from it, so that each request need not.
    """

    backends: tuple[BackendState, ...]
    models: Mapping[str, HostedModel]
    running: tuple[Mapping[str, Any], ...] = ()
    derived: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def is_unreachable(self) -> bool:
        """Whether no backend has answered for so long that no model is known any more."""
        return bool(self.backends) and not self.models and not any(state.answers for state in self.backends)

    def replicas_of(self, backend: str) -> int:
        """The number of replicas of a backend, 1 when it is unknown."""
        return next((state.replicas for state in self.backends if state.name == backend), 1)

    def addresses_of(self, backends: Iterable[str]) -> tuple[str, ...]:
        """The addresses of these backends, each once."""
        named = frozenset(backends)
        found = (address for state in self.backends if state.name in named for address in state.addresses)
        return tuple(dict.fromkeys(found))

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
            backends=tuple(
                BackendState(**{**row, "addresses": tuple(row.get("addresses", ()))}) for row in data["backends"]
            ),
            models={model.name: model for model in models},
            running=tuple(data["running"]),
        )
