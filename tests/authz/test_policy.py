import pytest

from authz.policy import backends_for, check_scope, effective_models
from gateway.catalog import BackendState, Catalog, HostedModel
from gateway.errors import Code, Denied
from gateway.surfaces import BY_NAME
from gateway.values import Budgets, Limits, Principal

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


def test_an_allowed_model_goes_to_its_backends_in_their_order() -> None:
    assert backends_for(principal("a:latest"), "a:latest", CATALOG) == ("near", "far")


def test_nothing_is_allowed_by_default() -> None:
    assert effective_models(principal(), CATALOG) == []


def test_allow_all_means_all_that_exist() -> None:
    assert effective_models(principal(allow_all=True), CATALOG) == ["a:latest", "b:latest"]


def test_a_model_that_runs_elsewhere_is_never_among_all_models() -> None:
    assert effective_models(principal("c:cloud", allow_all=True), CATALOG) == ["a:latest", "b:latest", "c:cloud"]
    assert backends_for(principal("c:cloud"), "c:cloud", CATALOG) == ("far",)
    with pytest.raises(Denied) as refused:
        backends_for(principal(allow_all=True), "c:cloud", CATALOG)
    assert refused.value.code is Code.MODEL_NOT_ALLOWED


def test_a_forbidden_model_and_one_that_nobody_hosts_are_refused_alike() -> None:
    refusals = []
    for model in ("b:latest", "missing:latest"):
        with pytest.raises(Denied) as refused:
            backends_for(principal("a:latest", "missing:latest"), model, CATALOG)
        refusals.append((refused.value.code, refused.value.message))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] is Code.MODEL_NOT_ALLOWED


def test_a_key_for_embeddings_cannot_chat() -> None:
    check_scope(principal(scopes=("embeddings",)), BY_NAME["embed"])
    with pytest.raises(Denied) as refused:
        check_scope(principal(scopes=("embeddings",)), BY_NAME["chat"])
    assert refused.value.code is Code.SCOPE_DENIED
