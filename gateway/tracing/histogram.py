"""An OTLP histogram that one event loop records. It uses the series of the Prometheus histograms."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.metrics.registry import Series
from gateway.tracing.span import Value


class Histogram:
    """The values of one metric since the process started.

    `unit` is in UCUM, and `bounds` are the inclusive upper bounds of the buckets in growing order, without infinity.
    `series` has the values by their attributes.
    """

    def __init__(self, name: str, unit: str, description: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.bounds = bounds
        self.series: dict[tuple[tuple[str, Value], ...], Series] = {}

    def record(self, value: float, attributes: Mapping[str, Value]) -> None:
        """Records one value. Callers give the same attributes in the same order."""
        key = tuple(attributes.items())
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series(self.bounds)
        series.observe(value)
