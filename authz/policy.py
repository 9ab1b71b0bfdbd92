"""What a principal may use. Pure."""

from __future__ import annotations

from gateway.catalog import Catalog
from gateway.errors import Code, Denied
from gateway.surfaces import Surface
from gateway.values import Principal, Scope


def check_scope(principal: Principal, surface: Surface) -> None:
    """Raises Denied(scope_denied) when the key is not for this kind of surface."""
    if surface.scope not in principal.scopes:
        raise Denied(Code.SCOPE_DENIED)


def may_use(principal: Principal, model: str) -> bool:
    """Whether the allow-list names `model`, a canonical name; says nothing about whether it exists."""
    return principal.allow_all_models or model in principal.models


def effective_models(principal: Principal, catalog: Catalog) -> list[str]:
    """What the principal can really use: the allow-list within what the backends host, in the catalog's order."""
    return [name for name in catalog.models if may_use(principal, name)]


def backends_for(principal: Principal, model: str, catalog: Catalog) -> tuple[str, ...]:
    """Names of the backends to try for `model`, in order.

    Raises Denied(model_not_allowed) alike for a model that is forbidden and for one that nobody hosts.
    """
    hosted = catalog.models.get(model)
    if hosted is None or not may_use(principal, model):
        raise Denied(Code.MODEL_NOT_ALLOWED)
    return hosted.backends


def may_set_runner_options(principal: Principal) -> bool:
    """Whether the key may set options that reload or unload a model for everybody."""
    return Scope.RUNNER in principal.scopes
