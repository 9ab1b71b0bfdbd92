"""In which order Envoy gets other clusters, over every kind of change."""

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
from ops.data_plane import cds, envoy_files
from ops.data_plane.cds import rollout, stripped_by, version_of

HEADERS = ["Authorization", "X-One", "X-Two"]


def clusters(*backends: dict[str, Any]) -> cds.Clusters:
    named = [{"base_url": f"http://{backend['name']}:1", **backend} for backend in backends]
    each = {name: cluster for backend in named for name, cluster in _alone(json.dumps(backend)).items()}
    return cds.strip_also(each, stripped_by(each))


@functools.cache
def _alone(backend: str) -> cds.Clusters:
    """Rendering takes its time; a cluster differs from itself in company only by what it strips."""
    return envoy_files.clusters(Settings.model_validate({"ollama_backends": f"[{backend}]"}), Path("/envoy"))


def test_a_cluster_is_rendered_in_company_as_it_is_alone() -> None:
    one = {"name": "a", "base_url": "http://a:1", "auth_token": "t", "auth_header": "X-One"}
    two = {"name": "b", "base_url": "http://b:1"}
    settings = Settings.model_validate({"ollama_backends": [one, two]})
    assert envoy_files.clusters(settings, Path("/envoy")) == clusters(one, two)


def injected(cluster: cds.Cluster) -> set[str]:
    """The header that the cluster adds, if it adds one."""
    (options,) = cluster["typed_extension_protocol_options"].values()
    return {
        each["typed_config"]["credential"]["typed_config"]["header"].lower()
        for each in options["http_filters"]
        if each["name"] == "envoy.filters.http.credential_injector"
    }


def test_what_is_new_comes_beside_what_goes() -> None:
    before, after = clusters({"name": "a"}, {"name": "b"}), clusters({"name": "b"}, {"name": "c"})
    plan = rollout(before, after)
    assert [set(step) for step in plan.steps] == [{"backend:a", "backend:b", "backend:c"}]
    assert set(plan.last) == {"backend:b", "backend:c"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"name": "a"}, {"name": "b"}], [{"name": "b"}, {"name": "a"}]),
        ([{"name": "a", "auth_token": "old"}], [{"name": "a", "auth_token": "new"}]),
    ],
    ids=["order", "token"],
)
def test_order_and_a_new_token_do_not_change_the_clusters(before: Any, after: Any) -> None:
    assert rollout(clusters(*before), clusters(*after)).steps == ()


def test_a_new_header_is_stripped_by_all_before_one_uses_it() -> None:
    before = clusters({"name": "a"}, {"name": "b"})
    after = clusters({"name": "a", "auth_token": "t", "auth_header": "X-One"}, {"name": "b"})
    first, second = rollout(before, after).steps
    assert stripped_by(first) == {"authorization", "x-api-key", "x-one"}
    assert [injected(cluster) for cluster in first.values()] == [set(), set()]
    assert injected(second["backend:a"]) == {"x-one"}


def test_clusters_are_read_back_with_their_version_and_their_secrets() -> None:
    both = clusters({"name": "b", "auth_token": "t"}, {"name": "a"})
    content = cds.document(both)
    assert json.loads(content)["version_info"] == version_of(both)
    assert cds.parse(content) == both
    (secret,) = cds.secrets_of(both)
    assert secret.startswith("credential-b-")
    private = {"name": "a", "base_url": "https://a", "ca_file": "/ca.pem", "auth_token": "t"}
    secrets = cds.secrets_of(clusters(private, {"name": "b", "base_url": "https://b"}))
    assert [name.rpartition("-")[0] for name in sorted(secrets)] == ["authority-a", "credential-a"]
    for wrong in (b"", b"[]", b'{"resources": [1]}', b'{"resources": [{}]}'):
        with pytest.raises(ValueError):
            cds.parse(wrong)


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
def test_at_no_moment_does_a_cluster_pass_on_what_another_may_have_added(history: list[Any]) -> None:
    """Envoy replaces clusters one by one, so each of a step may meet each of the step before."""
    present = clusters(*history[0])
    for backends in history[1:]:
        plan = rollout(present, clusters(*backends))
        for before, after in zip((present, *plan.steps), (*plan.steps, plan.last), strict=True):
            meeting = [*before.values(), *after.values()]
            added = set().union(*map(injected, meeting))
            for cluster in meeting:
                assert added <= stripped_by({"": cluster})
        assert set(plan.last) == {f"backend:{backend['name']}" for backend in backends}
        assert set(plan.last) <= set((present, *plan.steps)[-1])
        present = plan.last
