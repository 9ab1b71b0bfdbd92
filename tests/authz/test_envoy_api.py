"""The responses to Envoy's checks."""

from __future__ import annotations

from google.protobuf.json_format import MessageToDict

from authz import envoy_api
from authz.admit import Admitted


def test_each_admitted_request_has_its_own_grant_and_the_route_of_its_candidates() -> None:
    decisions = [
        Admitted("/api/chat", candidates, grant, {})
        for grant, candidates in (("first", ("a", "b")), ("second", ("a", "b")), ("third", ("b",)))
    ]
    responses = [envoy_api.admitted(decision) for decision in decisions]
    metadata = [MessageToDict(response.dynamic_metadata) for response in responses]
    assert [each["grant"] for each in metadata] == ["first", "second", "third"]
    assert [len(each["priority_groups"]) for each in metadata] == [2, 2, 1]
    assert metadata[0]["priority_groups"] == metadata[1]["priority_groups"]
    assert metadata[2]["priority_groups"][0]["clusters"][0]["cluster_name"].endswith("b")
