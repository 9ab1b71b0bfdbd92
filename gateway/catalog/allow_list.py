"""Which of the hosted models an allow-list covers. Pure."""

from __future__ import annotations

from collections.abc import Collection

from gateway.catalog.snapshot import Catalog, HostedModel


def may_use(model: HostedModel, *, allow_all: bool, allowed: Collection[str]) -> bool:
    """Whether `allowed` names the model, or `allow_all` covers it.

    A remote model runs on the operator's account elsewhere, so `allow_all` never covers it: it has to be named.
    """
    return model.name in allowed or (allow_all and not model.remote)


def effective_models(catalog: Catalog, *, allow_all: bool, allowed: Collection[str]) -> list[str]:
    """The names of the hosted models that the allow-list covers, in the catalog's order."""
    return [model.name for model in catalog.models.values() if may_use(model, allow_all=allow_all, allowed=allowed)]
