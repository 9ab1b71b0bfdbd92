from __future__ import annotations

from prometheus_client.core import Metric

from gateway.catalog.snapshot import BackendState
from gateway.metrics.registry import REGISTRY
from gateway.quota.port import Watermark
from ops.control.metrics import drain_lag_s, set_backends


def values(name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by the values of their labels."""
    families: list[Metric] = list(REGISTRY.collect())
    return {tuple(s.labels.values()): s.value for family in families for s in family.samples if s.name == name}


def test_the_lag_is_the_age_of_the_oldest_event_of_all_shards() -> None:
    watermark = Watermark("e", (None, (7_000, 3), (9_000, 0)), ((1, 0), (8_000, 0), (9_000, 1)))
    assert drain_lag_s(watermark, 10.5) == 3.5


def test_without_a_waiting_event_or_with_a_clock_ahead_of_ours_there_is_no_lag() -> None:
    assert drain_lag_s(Watermark("e", (None,), ((5, 0),)), 10.0) == 0
    assert drain_lag_s(Watermark("e", ((11_000, 0),), ((11_000, 0),)), 10.0) == 0


def test_a_removed_backend_has_no_series() -> None:
    set_backends([BackendState("near", 2, "0.33.0"), BackendState("far", 1, None, answers=False)])
    assert values("neuronetz_backend_up") == {("near",): 1, ("far",): 0}
    assert values("neuronetz_backend_info") == {("near", "0.33.0"): 1}
    set_backends([BackendState("far", 1, "0.34.0")])
    assert values("neuronetz_backend_replicas") == {("far",): 1}
    assert values("neuronetz_backend_info") == {("far", "0.34.0"): 1}
