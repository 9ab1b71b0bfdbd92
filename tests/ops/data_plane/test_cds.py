"""The order of steps in which Envoy gets other clusters, for every kind of change."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import Settings
from ops.data_plane import cds, cluster_json, envoy_files
from ops.data_plane.cds import plan_rollout, stripped_headers, version_of
from ops.data_plane.cluster_json import Cluster, Clusters

HEADERS = ["Authorization", "X-One", "X-Two"]


def clusters(*backends: dict[str, Any]) -> Clusters:
    named = [{"base_url": f"http://{backend['name']}:1", **backend} for backend in backends]
    each = {name: cluster for backend in named for name, cluster in _alone(json.dumps(backend)).items()}
    return cds.with_stripped_headers(each, stripped_headers(each))


@functools.cache
def _alone(backend: str) -> Clusters:
    """Cached, because rendering is slow. A cluster depends on the other ones only by the headers that it strips."""
    return envoy_files.clusters_of(Settings.model_validate({"ollama_backends": f"[{backend}]"}), Path("/envoy"))


def test_a_cluster_depends_on_the_others_only_by_the_headers_it_strips() -> None:
    one = {"name": "a", "base_url": "http://a:1", "auth_token": "t", "auth_header": "X-One"}
    two = {"name": "b", "base_url": "http://b:1"}
    settings = Settings.model_validate({"ollama_backends": [one, two]})
    assert envoy_files.clusters_of(settings, Path("/envoy")) == clusters(one, two)


def injected(cluster: Cluster) -> set[str]:
    """The header that the cluster adds, in lower case, if it adds one."""
    header = cluster_json.injected_header(cluster)
    return set() if header is None else {header.lower()}


def test_new_clusters_are_added_before_old_ones_are_removed() -> None:
    before, after = clusters({"name": "a"}, {"name": "b"}), clusters({"name": "b"}, {"name": "c"})
    plan = plan_rollout(before, after)
    assert [set(step) for step in plan.steps] == [{"backend:a", "backend:b", "backend:c"}]
    assert set(plan.final) == {"backend:b", "backend:c"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"name": "a"}, {"name": "b"}], [{"name": "b"}, {"name": "a"}]),
        ([{"name": "a", "auth_token": "old"}], [{"name": "a", "auth_token": "new"}]),
    ],
    ids=["order", "token"],
)
def test_order_and_a_new_token_do_not_change_the_clusters(before: Any, after: Any) -> None:
    assert plan_rollout(clusters(*before), clusters(*after)).steps == ()


def test_all_clusters_strip_a_new_header_before_one_adds_it() -> None:
    before = clusters({"name": "a"}, {"name": "b"})
    after = clusters({"name": "a", "auth_token": "t", "auth_header": "X-One"}, {"name": "b"})
    first, second = plan_rollout(before, after).steps
    assert stripped_headers(first) == {*stripped_headers(before), "x-one"} > {"authorization", "x-api-key", "x-one"}
    assert [injected(cluster) for cluster in first.values()] == [set(), set()]
    assert injected(second["backend:a"]) == {"x-one"}


def test_clusters_are_parsed_with_their_version_and_their_secrets() -> None:
    both = clusters({"name": "b", "auth_token": "t"}, {"name": "a"})
    content = cds.document(both)
    assert json.loads(content)["version_info"] == version_of(both)
    assert cds.parse(content) == both
    (secret,) = cds.secret_names(both)
    assert secret.startswith("credential-b-")
    private = {"name": "a", "base_url": "https://a", "ca_file": "/ca.pem", "auth_token": "t"}
    secrets = cds.secret_names(clusters(private, {"name": "b", "base_url": "https://b"}))
    assert [name.rpartition("-")[0] for name in sorted(secrets)] == ["authority-a", "credential-a"]
    for invalid in (b"", b"[]", b'{"resources": [1]}', b'{"resources": [{}]}'):
        with pytest.raises(ValueError):
            cds.parse(invalid)


lists = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from("abc"),
            "base_url": st.sampled_from(["http://one:1", "http://two:1"]),
            "auth_token": st.sampled_from(["", "t"]),
            "auth_header": st.sampled_from(HEADERS),
        }
    ),
    unique_by=lambda backend: backend["name"],
    min_size=1,
)


@hypothesis.settings(max_examples=40)
@given(st.lists(lists, min_size=2, max_size=4))
def test_no_cluster_forwards_a_header_that_another_one_may_have_added(history: list[Any]) -> None:
    """Envoy replaces clusters one by one, so clusters of two consecutive steps may coexist."""
    present = clusters(*history[0])
    for backends in history[1:]:
        plan = plan_rollout(present, clusters(*backends))
        for before, after in zip((present, *plan.steps), (*plan.steps, plan.final), strict=True):
            coexisting = [*before.values(), *after.values()]
            added = set().union(*map(injected, coexisting))
            for cluster in coexisting:
                assert added <= stripped_headers({"": cluster})
        assert set(plan.final) == {f"backend:{backend['name']}" for backend in backends}
        assert set(plan.final) <= set((present, *plan.steps)[-1])
        present = plan.final
