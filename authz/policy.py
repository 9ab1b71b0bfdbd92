"""What a principal may use. Pure."""

from __future__ import annotations

from gateway.catalog.allow_list import may_use
from gateway.catalog.snapshot import Catalog
from gateway.errors import Code, Denied
from gateway.values import Principal, Scope
from gateway.wire.surfaces import Surface

# A second attempt on another replica of the same backend comes before the next backend.
TRIES_PER_BACKEND_MAX = 2


def check_scope(principal: Principal, surface: Surface) -> None:
    """Raises Denied(scope_denied) when the key is not for this kind of surface."""
    if surface.scope not in principal.scopes:
        raise Denied(Code.SCOPE_DENIED)


def candidate_backends(principal: Principal, model: str, catalog: Catalog, *, prefer_loaded: bool) -> tuple[str, ...]:
    """Names of the backends to try for `model`, in order, each as often as it is to be tried in a row.

    That is the order of the configuration; with `prefer_loaded` those that have the model in memory come first, in
    that order. A second replica of a backend is tried before the next backend. Raises Denied(model_not_allowed) alike
    for a model that is forbidden and for one that nobody hosts.
    """
    hosted = catalog.models.get(model)
    allow_all, allowed = principal.allow_all_models, principal.models
    if hosted is None or not may_use(hosted, allow_all=allow_all, allowed=allowed):
        raise Denied(Code.MODEL_NOT_ALLOWED)
    order = sorted(hosted.backends, key=lambda name: prefer_loaded and name not in hosted.loaded)
    return tuple(name for name in order for _ in range(min(catalog.replicas_of(name), TRIES_PER_BACKEND_MAX)))


def may_set_runner_options(principal: Principal) -> bool:
    """Whether the key may set options that reload or unload a model for everybody."""
    return Scope.RUNNER in principal.scopes


def may_see_backend(principal: Principal) -> bool:
    """Whether the key is told which backend answered."""
    return Scope.DEBUG in principal.scopes
