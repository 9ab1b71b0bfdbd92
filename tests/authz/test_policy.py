import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.policy import (
    TRIES_PER_BACKEND_MAX,
    Permission,
    candidate_backends,
    candidate_replicas,
    check_runner_options,
    clusters_in_order,
    decide,
)
from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.errors import Code, Denied
from gateway.queue.port import AUTO
from gateway.values import Budgets, Limits, Principal, Scope
from gateway.wire.names import backend_of
from gateway.wire.surfaces import BY_NAME, RunnerField

LIMITS = Limits(rpm=60, tpm=1000, concurrent=4)
CATALOG = Catalog(
    backends=(BackendState("near", 1, "0.17.1"), BackendState("far", 2, "0.17.1")),
    models={
        "a:latest": HostedModel("a:latest", ("near", "far"), {}),
        "b:latest": HostedModel("b:latest", ("far",), {}),
        "c:cloud": HostedModel("c:cloud", ("far",), {}, remote=True),
    },
)


def principal(
    *models: str, allow_all: bool = False, scopes: tuple[Scope, ...] = (Scope.CHAT, Scope.EMBEDDINGS)
) -> Principal:
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
def test_a_backend_is_tried_up_to_twice_in_a_row_before_the_next(catalog: Catalog, prefer: bool) -> None:
    candidates = candidate_backends(catalog.models["m:latest"], catalog, prefer_loaded=prefer)
    runs = [(name, len(list(run))) for name, run in itertools.groupby(candidates)]
    assert sorted(name for name, _ in runs) == sorted(catalog.models["m:latest"].backends)
    assert all(length == min(catalog.replicas_of(name), TRIES_PER_BACKEND_MAX) for name, length in runs)


@given(catalogs())
def test_the_order_of_the_candidates_is_that_of_the_configuration(catalog: Catalog) -> None:
    candidates = candidate_backends(catalog.models["m:latest"], catalog, prefer_loaded=False)
    assert tuple(dict.fromkeys(candidates)) == catalog.models["m:latest"].backends


@given(catalogs())
def test_backends_that_have_the_model_loaded_come_first_when_that_is_preferred(catalog: Catalog) -> None:
    model = catalog.models["m:latest"]
    candidates = candidate_backends(model, catalog, prefer_loaded=True)
    cold = tuple(name for name in model.backends if name not in model.loaded)
    assert tuple(dict.fromkeys(candidates)) == (*model.loaded, *cold)


def permission(who: Principal, model: str, surface: str = "chat") -> Permission:
    return decide(who, BY_NAME[surface], model, CATALOG, prefer_loaded=False)


def test_allow_all_does_not_include_remote_models() -> None:
    assert set(permission(principal("c:cloud"), "c:cloud").candidates) == {"far"}
    with pytest.raises(Denied) as denied:
        permission(principal(allow_all=True), "c:cloud")
    assert denied.value.code is Code.MODEL_NOT_ALLOWED


def test_a_forbidden_model_and_one_without_a_backend_are_denied_identically() -> None:
    denials = []
    for model in ("b:latest", "missing:latest"):
        with pytest.raises(Denied) as denied:
            permission(principal("a:latest", "missing:latest"), model)
        denials.append((denied.value.code, denied.value.message))
    assert denials[0] == denials[1]
    assert denials[0][0] is Code.MODEL_NOT_ALLOWED


def test_a_key_for_embeddings_cannot_chat() -> None:
    embeddings = principal("a:latest", scopes=(Scope.EMBEDDINGS,))
    assert permission(embeddings, "a:latest", "embed").candidates
    with pytest.raises(Denied) as denied:
        permission(embeddings, "a:latest", "chat")
    assert denied.value.code is Code.SCOPE_DENIED


@pytest.mark.parametrize(
    ("scopes", "runner_options", "show_backend"),
    [
        ((Scope.CHAT,), False, False),
        ((Scope.CHAT, Scope.RUNNER), True, False),
        ((Scope.CHAT, Scope.DEBUG), False, True),
    ],
)
def test_runner_options_and_the_backend_need_their_scopes(
    scopes: tuple[Scope, ...], runner_options: bool, show_backend: bool
) -> None:
    allowed = permission(principal("a:latest", scopes=scopes), "a:latest")
    assert (allowed.runner_options, allowed.show_backend) == (runner_options, show_backend)


@pytest.mark.parametrize("option", RunnerField)
def test_an_option_that_must_not_be_dropped_needs_the_scope_runner(option: RunnerField) -> None:
    plain, runner = (
        decide(principal("a:latest", scopes=scopes), BY_NAME["chat"], "a:latest", CATALOG, prefer_loaded=False)
        for scopes in ((Scope.CHAT,), (Scope.CHAT, Scope.RUNNER))
    )
    check_runner_options(runner, option)
    check_runner_options(plain, None)
    with pytest.raises(Denied, match=f"'{option}' of this request needs a key with the scope 'runner'") as denied:
        check_runner_options(plain, option)
    assert denied.value.code is Code.SCOPE_DENIED


QUEUED = Catalog(
    backends=(
        BackendState("near", 2, None, addresses=("a:1", "b:1"), slots=4),
        BackendState("mute", 1, None, answers=False, addresses=("c:1",)),
        BackendState("far", 3, None, addresses=("d:1", "e:1", "f:1")),
    ),
    models={"m:latest": HostedModel("m:latest", ("near", "mute", "far"), {}, loaded=("far",))},
)


def test_the_replicas_of_a_model_are_those_of_the_backends_that_answer_by_rank() -> None:
    replicas = candidate_replicas(QUEUED.models["m:latest"], QUEUED, prefer_loaded=False)
    assert [(backend_of(each.replica), each.rank, each.slots) for each in replicas] == [
        *[("near", 0, 4)] * 2,
        *[("far", 2, AUTO)] * 3,
    ]
    assert len({each.replica for each in replicas}) == 5
    loaded = candidate_replicas(QUEUED.models["m:latest"], QUEUED, prefer_loaded=True)
    assert backend_of(min(loaded, key=lambda each: each.rank).replica) == "far"


def test_envoy_tries_the_replica_with_the_slot_first_then_its_backend_and_every_other_backend() -> None:
    who = principal("m:latest")
    allowed = decide(who, BY_NAME["chat"], "m:latest", QUEUED, prefer_loaded=False)
    granted = allowed.replicas[-1].replica
    clusters = clusters_in_order(granted, allowed)
    assert clusters[0] == granted
    assert [backend_of(cluster) for cluster in clusters] == ["far", "far", "near", "near", "mute"]
    assert len(set(clusters)) == 5
