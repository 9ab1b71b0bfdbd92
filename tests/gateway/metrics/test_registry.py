from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics.registry import OTHER, BoundedNames, Histogram


def exposed(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples by name and labels, as Prometheus' own parser reads them."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_histogram_counts_each_value_in_all_buckets_that_contain_it() -> None:
    registry = CollectorRegistry()
    series = Histogram("h", "Help.", (0.1, 1.0), registry=registry).labels()
    for value in (0.05, 0.1, 0.5, 7.0):
        series.observe(value)
    assert exposed(registry) == {
        ("h_bucket", (("le", "0.1"),)): 2,
        ("h_bucket", (("le", "1.0"),)): 3,
        ("h_bucket", (("le", "+Inf"),)): 4,
        ("h_count", ()): 4,
        ("h_sum", ()): 7.65,
    }


def test_a_histogram_without_labels_is_exposed_before_its_first_value() -> None:
    registry = CollectorRegistry()
    Histogram("h", "Help.", (1.0,), registry=registry)
    assert exposed(registry)["h_count", ()] == 0


def test_label_values_have_separate_series() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "Help.", (1.0,), ("model",), registry)
    histogram.labels("a").observe(0.5)
    histogram.labels("b").observe(2.0)
    histogram.labels("a").observe(0.5)
    counts = {labels: value for (name, labels), value in exposed(registry).items() if name == "h_count"}
    assert counts == {(("model", "a"),): 2, (("model", "b"),): 1}


def test_names_beyond_the_bound_share_a_label_value() -> None:
    names = BoundedNames(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]
