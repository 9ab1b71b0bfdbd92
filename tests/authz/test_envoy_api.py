"""The responses to Envoy's checks."""

from __future__ import annotations

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.json_format import MessageToDict

from authz import envoy_api
from authz.admit import Admitted


def admitted(decision: Admitted, header_names: frozenset[str]) -> external_auth_pb2.CheckResponse:
    """The response that Envoy decodes."""
    return external_auth_pb2.CheckResponse.FromString(envoy_api.admitted(decision, header_names))


def test_each_admitted_request_has_its_own_grant_and_the_route_of_its_candidates() -> None:
    decisions = [
        Admitted("/api/chat", candidates, grant, {})
        for grant, candidates in (("first", ("a", "b")), ("second", ("a", "b")), ("third", ("b",)))
    ]
    responses = [admitted(decision, frozenset()) for decision in decisions]
    metadata = [MessageToDict(response.dynamic_metadata) for response in responses]
    assert [each["grant"] for each in metadata] == ["first", "second", "third"]
    assert [len(each["priority_groups"]) for each in metadata] == [2, 2, 1]
    assert metadata[0]["priority_groups"] == metadata[1]["priority_groups"]
    assert metadata[2]["priority_groups"][0]["clusters"][0]["cluster_name"].endswith("b")


def test_a_backend_receives_the_listed_headers_only() -> None:
    passed = {":path", "x-request-id", "x-envoy-max-retries", "content-length"}
    names = {*passed, "transfer-encoding", "cookie", "x-nz-peer"}
    decision = Admitted("/api/chat", ("a",), "grant", {}, "application/json")
    response = admitted(decision, frozenset(names)).ok_response
    assert list(response.headers_to_remove) == ["cookie", "transfer-encoding", "x-nz-peer"]
    assert {each.header.key: each.header.value for each in response.headers} == {
        ":path": "/api/chat",
        "x-envoy-max-retries": "0",
        "accept": "application/json",
        "content-type": "application/json",
    }


@pytest.mark.parametrize("size", [1, 127, 128, 20_000])
def test_the_headers_of_the_answer_and_the_grant_may_have_any_length(size: int) -> None:
    headers = {"x-first": "1" * size, "x-second": "2"}
    response = admitted(Admitted("/api/chat", ("a",), "g" * size, headers), frozenset())
    added = response.ok_response.response_headers_to_add
    assert {each.header.key: each.header.value for each in added} == headers
    assert {each.append_action for each in added} == {
        base_pb2.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    }
    assert response.dynamic_metadata.fields["grant"].string_value == "g" * size


def test_a_response_to_many_names_is_not_retained() -> None:
    decision = Admitted("/api/chat", ("a",), "grant", {})
    retained = envoy_api._routing.cache_info().currsize
    response = admitted(decision, frozenset({"x" * 30_000}))
    assert list(response.ok_response.headers_to_remove) == ["x" * 30_000]
    assert envoy_api._routing.cache_info().currsize == retained


def test_retries_at_a_busy_server_go_to_the_first_candidate_and_do_not_count_as_candidates() -> None:
    response = admitted(Admitted("/api/chat", ("a", "b"), "g", {}, busy_retries=5), frozenset())
    metadata = MessageToDict(response.dynamic_metadata)
    assert [group["clusters"][0]["cluster_name"] for group in metadata["priority_groups"]] == ["a", "b", "a"]
    headers = {option.header.key: option.header.value for option in response.ok_response.headers}
    assert (headers["x-envoy-max-retries"], metadata["tries"]) == ("6", "2")
    single = admitted(Admitted("/api/chat", ("a",), "g", {}, busy_retries=5), frozenset())
    assert [group["name"] for group in MessageToDict(single.dynamic_metadata)["priority_groups"]] == ["0"]


@pytest.mark.parametrize(("busy_retries", "tries"), [(0, "2"), (None, None)])
def test_without_retries_at_a_busy_server_every_attempt_is_for_a_candidate(
    busy_retries: int | None, tries: str | None
) -> None:
    response = admitted(Admitted("/api/chat", ("a", "b"), "g", {}, busy_retries=busy_retries), frozenset())
    headers = {option.header.key: option.header.value for option in response.ok_response.headers}
    assert headers["x-envoy-max-retries"] == "1"
    assert MessageToDict(response.dynamic_metadata).get("tries") == tries
