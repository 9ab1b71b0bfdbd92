import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.policy import TRIES_PER_BACKEND_MAX, candidate_backends, check_scope
from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.errors import Code, Denied
from gateway.values import Budgets, Limits, Principal
from gateway.wire.surfaces import BY_NAME

LIMITS = Limits(rpm=60, tpm=1000, concurrent=4)
CATALOG = Catalog(
    backends=(BackendState("near", 1, "0.17.1"), BackendState("far", 2, "0.17.1")),
    models={
        "a:latest": HostedModel("a:latest", ("near", "far"), {}),
        "b:latest": HostedModel("b:latest", ("far",), {}),
        "c:cloud": HostedModel("c:cloud", ("far",), {}, remote=True),
    },
)


def principal(*models: str, allow_all: bool = False, scopes: tuple[str, ...] = ("chat", "embeddings")) -> Principal:
    return Principal(
        tenant_id=1,
        tenant="t",
        key_id=2,
        key_prefix="nz_abcdefghi",
        scopes=frozenset(scopes),
        models=frozenset(models),
        allow_all_models=allow_all,
        tenant_limits=LIMITS,
        key_limits=LIMITS,
        tenant_budgets=Budgets(),
        key_budgets=Budgets(),
        log_prompts=False,
        expires_at=None,
    )


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """One model on some of up to six backends, loaded on some of those."""
    replicas = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    states = tuple(BackendState(f"b{place}", count, None) for place, count in enumerate(replicas))
    hosts = tuple(state.name for state in states if draw(st.booleans())) or (states[0].name,)
    loaded = tuple(name for name in hosts if draw(st.booleans()))
    return Catalog(states, {"m:latest": HostedModel("m:latest", hosts, {}, loaded=loaded)})


@given(catalogs(), st.booleans())
def test_every_host_is_tried_once_for_each_replica_up_to_two_before_the_next(catalog: Catalog, prefer: bool) -> None:
    attempts = candidate_backends(principal("m:latest"), "m:latest", catalog, prefer_loaded=prefer)
    runs = [(name, len(list(run))) for name, run in itertools.groupby(attempts)]
    assert sorted(name for name, _ in runs) == sorted(catalog.models["m:latest"].backends)
    assert all(length == min(catalog.replicas_of(name), TRIES_PER_BACKEND_MAX) for name, length in runs)


@given(catalogs())
def test_the_order_is_that_of_the_configuration(catalog: Catalog) -> None:
    attempts = candidate_backends(principal("m:latest"), "m:latest", catalog, prefer_loaded=False)
    assert tuple(dict.fromkeys(attempts)) == catalog.models["m:latest"].backends


@given(catalogs())
def test_backends_that_have_the_model_loaded_come_first_where_that_is_preferred(catalog: Catalog) -> None:
    model = catalog.models["m:latest"]
    attempts = candidate_backends(principal("m:latest"), "m:latest", catalog, prefer_loaded=True)
    cold = tuple(name for name in model.backends if name not in model.loaded)
    assert tuple(dict.fromkeys(attempts)) == (*model.loaded, *cold)


def test_a_model_that_runs_elsewhere_is_never_among_all_models() -> None:
    assert set(candidate_backends(principal("c:cloud"), "c:cloud", CATALOG, prefer_loaded=False)) == {"far"}
    with pytest.raises(Denied) as refused:
        candidate_backends(principal(allow_all=True), "c:cloud", CATALOG, prefer_loaded=False)
    assert refused.value.code is Code.MODEL_NOT_ALLOWED


def test_a_forbidden_model_and_one_that_nobody_hosts_are_refused_alike() -> None:
    refusals = []
    for model in ("b:latest", "missing:latest"):
        with pytest.raises(Denied) as refused:
            candidate_backends(principal("a:latest", "missing:latest"), model, CATALOG, prefer_loaded=False)
        refusals.append((refused.value.code, refused.value.message))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] is Code.MODEL_NOT_ALLOWED


def test_a_key_for_embeddings_cannot_chat() -> None:
    check_scope(principal(scopes=("embeddings",)), BY_NAME["embed"])
    with pytest.raises(Denied) as refused:
        check_scope(principal(scopes=("embeddings",)), BY_NAME["chat"])
    assert refused.value.code is Code.SCOPE_DENIED
