"""What Envoy needs for the queue: a cluster for each replica, and time for the wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.settings import Settings
from gateway.wire.names import backend_of, replica_clusters
from gateway.wire.timeouts import BODY_TIMEOUT_S, CHECK_TIMEOUT_S
from ops.data_plane.envoy_files import clusters_of, render_static
from tests.yaml_text import load_yaml

NEAR, FAR = "http://127.0.0.1:1", "http://127.0.0.1:2"
BACKENDS = [
    {"name": "pair", "base_url": NEAR, "replicas": [FAR], "slots": 200},
    {"name": "single", "base_url": "http://127.0.0.1:3"},
]


def settings(**fields: Any) -> Settings:
    return Settings.model_validate({"ollama_backends": BACKENDS, **fields})


def endpoints(cluster: Any) -> list[int]:
    first = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return [each["endpoint"]["address"]["socket_address"]["port_value"] for each in first]


def listener(**fields: Any) -> str:
    return render_static(settings(**fields), Path("/etc/envoy"))["listener.yaml"].decode()


def test_each_of_several_replicas_has_its_own_cluster() -> None:
    clusters = clusters_of(settings(queue_max_wait_s=30), Path("/etc/envoy"))
    first, second = replica_clusters("pair", ("127.0.0.1:1", "127.0.0.1:2"))
    assert set(clusters) == {"backend:pair", first, second, "backend:single"}
    assert [endpoints(clusters[name]) for name in ("backend:pair", first, second)] == [[1, 2], [1], [2]]
    assert {backend_of(name) for name in clusters} == {"pair", "single"}
    assert replica_clusters("single", ("127.0.0.1:3",)) == ("backend:single",)


def test_without_a_queue_there_is_one_cluster_for_each_backend() -> None:
    expected = {"backend:pair", "backend:single"}
    assert set(clusters_of(settings(queue_max_wait_s=0), Path("/etc/envoy"))) == expected
    sharded = settings(queue_max_wait_s=30, redis_shards=2)
    assert set(clusters_of(sharded, Path("/etc/envoy"))) == expected


def test_further_attempts_wait_for_a_slot_only_with_a_queue() -> None:
    for wait_s in (0, 30, 3600):
        for cluster in clusters_of(settings(queue_max_wait_s=wait_s), Path("/etc/envoy")).values():
            (options,) = cluster["typed_extension_protocol_options"].values()
            filters = {each["name"]: each["typed_config"] for each in options["http_filters"]}
            assert ("further_attempts" in filters) is bool(wait_s)
            if wait_s:
                call = filters["further_attempts"]["extension_config"]["typed_config"]
                # The server closes the connection after 60 s, and Envoy refuses more than an hour.
                assert min(wait_s, 45) < float(call["message_timeout"].removesuffix("s")) < 60
                assert call["failure_mode_allow"] is True


def test_no_request_with_a_slot_waits_for_a_connection() -> None:
    clusters = clusters_of(settings(queue_max_wait_s=30, ollama_max_connections=64), Path("/etc/envoy"))
    (first, _) = replica_clusters("pair", ("127.0.0.1:1", "127.0.0.1:2"))
    maxima = [
        clusters[name]["circuit_breakers"]["thresholds"][0]["max_connections"]
        for name in ("backend:pair", first, "backend:single")
    ]
    # Those that fail over have no slot. The slots of `single` are learnt.
    assert maxima == [500, 300, 10_100]


def test_a_check_and_a_request_may_take_longer_by_the_longest_wait() -> None:
    for wait_s in (0, 30):
        text = listener(queue_max_wait_s=wait_s)
        (resource,) = load_yaml(text)["resources"]
        manager = resource["filter_chains"][0]["filters"][0]["typed_config"]
        (check,) = [each["typed_config"] for each in manager["http_filters"] if each["name"].endswith("ext_authz")]
        service = check["grpc_service"]
        # Envoy ends each attempt after the longest interval between two.
        for timeout in (service["timeout"], service["retry_policy"]["retry_back_off"]["max_interval"]):
            assert float(timeout.removesuffix("s")) > CHECK_TIMEOUT_S + wait_s
        assert float(manager["request_timeout"].removesuffix("s")) == BODY_TIMEOUT_S + wait_s
