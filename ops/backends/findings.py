"""Problems that a catalog shows: backends that are too old, and one model name for different weights. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.catalog.ollama_version import OLDEST_SUPPORTED, is_too_old
from gateway.catalog.snapshot import Catalog, HostedModel

DIGEST_SHOWN_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: `subject` is a backend or a model, `text` one clause about it, `remedy` how to fix it."""

    kind: Literal["version_too_old", "digests_differ"]
    subject: str
    text: str
    remedy: str


def findings(catalog: Catalog) -> tuple[Finding, ...]:
    """All problems: first those of the backends, then those of the models, each in the catalog's order."""
    old = (
        Finding(
            "version_too_old",
            state.name,
            f"the backend {state.name} runs Ollama {state.version}, older than {OLDEST_SUPPORTED}",
            f"upgrade it to {OLDEST_SUPPORTED} or newer",
        )
        for state in catalog.backends
        if is_too_old(state.version)
    )
    differing = (
        Finding(
            "digests_differ",
            model.name,
            f"{model.name} has different weights on its backends: {_digests_by_backend(model)}",
            "pull it again on all of them, or rename it on one",
        )
        for model in catalog.models.values()
        if digests_differ(model)
    )
    return (*old, *differing)


def digests_differ(model: HostedModel) -> bool:
    """Whether two backends host different weights under this name, so that a fail-over would change the model."""
    return len(set(model.digests.values())) > 1


def _digests_by_backend(model: HostedModel) -> str:
    return ", ".join(f"{name} {digest[:DIGEST_SHOWN_CHARACTERS]}" for name, digest in model.digests.items())
