"""What an operator should know about a catalog: backends too old, and one name for different weights. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.catalog.ollama_version import OLDEST_SUPPORTED, is_too_old
from gateway.catalog.snapshot import Catalog, HostedModel

DIGEST_SHOWN_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to remedy: `subject` is a backend or a model, `text` one clause about it, `remedy` what to do."""

    kind: Literal["version_too_old", "digests_differ"]
    subject: str
    text: str
    remedy: str


def findings(catalog: Catalog) -> tuple[Finding, ...]:
    """Everything that is to be mended: backends in their order, then models in theirs."""
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
            f"{model.name} has different weights on its backends: {_spelled(model)}",
            "pull it on all of them again, or give it another name on one",
        )
        for model in catalog.models.values()
        if digests_differ(model)
    )
    return (*old, *differing)


def digests_differ(model: HostedModel) -> bool:
    """Whether two backends call different weights by this name, so that fail-over would change the model."""
    return len(set(model.digests.values())) > 1


def _spelled(model: HostedModel) -> str:
    return ", ".join(f"{name} {digest[:DIGEST_SHOWN_CHARACTERS]}" for name, digest in model.digests.items())
