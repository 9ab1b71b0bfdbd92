"""The spans that the collector did not receive."""

from __future__ import annotations

from prometheus_client import Counter

from gateway.metrics.registry import REGISTRY

SPANS_DROPPED = Counter(
    "neuronetz_spans_dropped",
    "Spans that the collector did not receive, because the queue was full or the collector refused them.",
    registry=REGISTRY,
)
