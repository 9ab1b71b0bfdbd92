"""What a principal may use. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.catalog.allow_list import may_use
from gateway.catalog.snapshot import Catalog, HostedModel
from gateway.errors import Code, Denied
from gateway.queue.port import Candidate
from gateway.values import Principal, Scope
from gateway.wire.names import backend_of, cluster_name, replica_clusters
from gateway.wire.surfaces import Surface

# A second replica of a backend is tried before the next backend.
TRIES_PER_BACKEND_MAX = 2


@dataclass(frozen=True, slots=True)
class Permission:
    """What a principal may do with one model on one surface.

    `candidates` are the names of the backends to try, in order, each as often as it is tried in a row.
    `runner_options` allows options that reload or unload a model for every tenant. `show_backend` reveals which backend
    answered. `hosted_model` is the name of the model as its first backend spells it. `backend_addresses` are the
    `HOST[:PORT]` of the candidates. `own_output_tokens` is the model's own output cap, and
    `context_tokens` its context in force, each None when there is none or it is unknown. `replicas` are the replicas of
    the backends that answer, whose slots the request can have; there are none when no backend answers. `orders` has the
    results of `clusters_in_order`.
    """

    hosted_model: str
    candidates: tuple[str, ...]
    runner_options: bool
    show_backend: bool
    backend_addresses: tuple[str, ...] = ()
    own_output_tokens: int | None = None
    context_tokens: int | None = None
    replicas: tuple[Candidate, ...] = ()
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)


def decide(principal: Principal, surface: Surface, model: str, catalog: Catalog, *, prefer_loaded: bool) -> Permission:
    """The permission of `principal` for the canonical name `model` on `surface`.

    Raises Denied(scope_denied) when the key is not for this kind of surface. Raises Denied(model_not_allowed),
    identically, for a model that is forbidden and for one that no backend hosts.
    """
    if surface.scope not in principal.scopes:
        raise Denied(Code.SCOPE_DENIED)
    hosted = catalog.models.get(model)
    if hosted is None or not may_use(hosted, allow_all=principal.allow_all_models, allowed=principal.models):
        raise Denied(Code.MODEL_NOT_ALLOWED)
    # No other property of the principal is in it.
    key = (Permission, model, Scope.RUNNER in principal.scopes, Scope.DEBUG in principal.scopes, prefer_loaded)
    permission: Permission | None = catalog.derived.get(key)
    if permission is None:
        permission = catalog.derived[key] = _permission(hosted, catalog, *key[2:])
    return permission


def _permission(
    hosted: HostedModel, catalog: Catalog, runner_options: bool, show_backend: bool, prefer_loaded: bool
) -> Permission:
    return Permission(
        hosted_model=hosted.spelling,
        candidates=candidate_backends(hosted, catalog, prefer_loaded=prefer_loaded),
        runner_options=runner_options,
        show_backend=show_backend,
        backend_addresses=catalog.addresses_of(hosted.backends),
        own_output_tokens=hosted.own_output_tokens,
        context_tokens=hosted.context_tokens,
        replicas=candidate_replicas(hosted, catalog, prefer_loaded=prefer_loaded),
    )


def check_runner_options(permission: Permission, decisive_option: str | None) -> None:
    """Raises Denied(scope_denied) for an option that the key may not use and that must not be dropped.

    `decisive_option` names an option without which the request would be another one, None when there is none.
    """
    if decisive_option is not None and not permission.runner_options:
        raise Denied(
            Code.SCOPE_DENIED, f"the option '{decisive_option}' of this request needs a key with the scope 'runner'"
        )


def candidate_backends(model: HostedModel, catalog: Catalog, *, prefer_loaded: bool) -> tuple[str, ...]:
    """Names of the backends to try for `model`, in the order of the configuration.

    With `prefer_loaded` the backends that have the model in memory come first. A backend with several replicas is
    listed up to TRIES_PER_BACKEND_MAX times in a row.
    """
    order = _in_order(model, prefer_loaded=prefer_loaded)
    return tuple(name for name in order for _ in range(min(catalog.replicas_of(name), TRIES_PER_BACKEND_MAX)))


def candidate_replicas(model: HostedModel, catalog: Catalog, *, prefer_loaded: bool) -> tuple[Candidate, ...]:
    """The replicas of the backends for `model` that answer. Those of an earlier backend have a lower rank.

    A backend that does not answer has free slots, but a request that gets one would fail over to another backend.
    """
    states = {state.name: state for state in catalog.backends}
    order = (states[name] for name in _in_order(model, prefer_loaded=prefer_loaded) if name in states)
    return tuple(
        Candidate(replica, rank, state.slots)
        for rank, state in enumerate(order)
        if state.answers
        for replica in replica_clusters(state.name, state.addresses)
    )


def clusters_in_order(granted: str, permission: Permission) -> tuple[str, ...]:
    """The clusters that Envoy tries for a request with a slot of the replica `granted`.

    Then come further replicas, as many per backend as without a queue, those of the same backend first.
    """
    order = permission.orders.get(granted)
    if order is None:
        order = permission.orders[granted] = _clusters_in_order(granted, permission)
    return order


def _clusters_in_order(granted: str, permission: Permission) -> tuple[str, ...]:
    backend = backend_of(granted)
    names = [each.replica for each in permission.replicas]
    names += (cluster_name(name) for name in permission.candidates if name not in set(map(backend_of, names)))
    tries: Counter[str | None] = Counter()
    chosen = []
    for name in sorted(names, key=lambda name: (name != granted, backend_of(name) != backend)):
        tries[backend_of(name)] += 1
        if tries[backend_of(name)] <= TRIES_PER_BACKEND_MAX:
            chosen.append(name)
    return tuple(chosen)


def _in_order(model: HostedModel, *, prefer_loaded: bool) -> list[str]:
    return sorted(model.backends, key=lambda name: prefer_loaded and name not in model.loaded)
