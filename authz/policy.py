"""What a principal may use. Pure."""

from __future__ import annotations

from gateway.catalog import Catalog, HostedModel
from gateway.errors import Code, Denied
from gateway.surfaces import Surface
from gateway.values import Principal, Scope


def check_scope(principal: Principal, surface: Surface) -> None:
    """Raises Denied(scope_denied) when the key is not for this kind of surface."""
    if surface.scope not in principal.scopes:
        raise Denied(Code.SCOPE_DENIED)


def may_use(principal: Principal, model: HostedModel) -> bool:
    """Whether the allow-list has `model`. What runs elsewhere, on the operator's account, has to be named there."""
    return model.name in principal.models or (principal.allow_all_models and not model.remote)


def effective_models(principal: Principal, catalog: Catalog) -> list[str]:
    """What the principal can really use: the allow-list within what the backends host, in the catalog's order."""
    return [model.name for model in catalog.models.values() if may_use(principal, model)]


def backends_for(principal: Principal, model: str, catalog: Catalog) -> tuple[str, ...]:
    """Names of the backends to try for `model`, in order.

    Raises Denied(model_not_allowed) alike for a model that is forbidden and for one that nobody hosts.
    """
    hosted = catalog.models.get(model)
    if hosted is None or not may_use(principal, hosted):
        raise Denied(Code.MODEL_NOT_ALLOWED)
    return hosted.backends


def may_set_runner_options(principal: Principal) -> bool:
    """Whether the key may set options that reload or unload a model for everybody."""
    return Scope.RUNNER in principal.scopes


def may_see_backend(principal: Principal) -> bool:
    """Whether the key is told which backend answered."""
    return Scope.DEBUG in principal.scopes
