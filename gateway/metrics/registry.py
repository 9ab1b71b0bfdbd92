"""The registry that `GET /metrics` exposes, a histogram without locks, and the bound of label values.

Each process is a scrape target with its own registry, so sums over all workers count nothing twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# A second time series per counter would state when the process created it, which no query here needs.
disable_created_metrics()  # type: ignore[no-untyped-call]  # The package has no annotation here.

REGISTRY = CollectorRegistry(auto_describe=True)

OTHER = "other"
"""The label value that stands for all values beyond a bound."""

# Calls to a store and checks: from half a millisecond to the longest deadline, in seconds.
CALL_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# Work of the event loop: from 10 µs to a stall that callers notice, in seconds.
LOOP_BUCKETS_S = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)


class Series:
    """The observations of one combination of label values. One event loop observes; any thread may read."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts `value` in its bucket."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """A Prometheus histogram for values that one event loop observes.

    `prometheus_client.Histogram` takes two locks and a linear search for each value, which is too slow for each chunk
    of an answer. `buckets` are the upper bounds in growing order, without infinity.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: tuple[float, ...],
        label_names: Sequence[str] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = buckets
        self._label_names = tuple(label_names)
        self._series: dict[tuple[str, ...], Series] = {}
        if not label_names:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values, in the order of the label names."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self._bounds)
        return series

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._label_names)
        for values, series in list(self._series.items()):
            bounds = [*map(str, self._bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(series.counts), strict=True))
            family.add_metric(values, buckets=buckets, sum_value=series.total)
        yield family


class BoundedNames:
    """Label values of an unbounded set: the first `maximum` names stand for themselves, all later ones are `other`."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._names: set[str] = set()

    def label(self, name: str) -> str:
        """The label value of `name`, which stays the same as long as the process runs."""
        if name in self._names:
            return name
        if len(self._names) >= self._maximum:
            return OTHER
        self._names.add(name)
        return name
