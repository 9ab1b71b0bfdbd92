from gateway.catalog.allow_list import effective_models
from gateway.catalog.snapshot import BackendState, Catalog, HostedModel

CATALOG = Catalog(
    backends=(BackendState("near", 1, "0.17.1"), BackendState("far", 2, "0.17.1")),
    models={
        "a:latest": HostedModel("a:latest", ("near", "far"), {}),
        "b:latest": HostedModel("b:latest", ("far",), {}),
        "c:cloud": HostedModel("c:cloud", ("far",), {}, remote=True),
    },
)


def test_an_empty_allow_list_covers_no_model() -> None:
    assert effective_models(CATALOG, allow_all=False, allowed=()) == []


def test_allow_all_covers_every_model_that_a_backend_runs_itself() -> None:
    assert effective_models(CATALOG, allow_all=True, allowed=()) == ["a:latest", "b:latest"]


def test_a_named_model_counts_only_while_a_backend_hosts_it() -> None:
    assert effective_models(CATALOG, allow_all=False, allowed={"b:latest", "missing:latest"}) == ["b:latest"]


def test_a_remote_model_counts_only_when_it_is_named() -> None:
    assert effective_models(CATALOG, allow_all=True, allowed={"c:cloud"}) == ["a:latest", "b:latest", "c:cloud"]
