"""From samples to medians and ratios. Pure.

A ratio or a difference compares two sides within the same round. The median is taken over these comparisons, so that a
slow round does not distort them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from statistics import median
from typing import Any

from bench.measure import Sample
from bench.sides import envoy, gateway, upstream
from bench.workloads import CHUNKS_PER_S, Workload

STORES = frozenset({"redis", "postgres"})
FASTAPI = "fastapi"

Value = Callable[[Sample], float | None]


def own_cpu_us(sample: Sample) -> float:
    """The CPU time per unit of a side without its stores."""
    return sum(value for name, value in sample.cpu_us.items() if name not in STORES)


def stores_cpu_us(sample: Sample) -> float:
    """The CPU time per unit of a side's Redis and PostgreSQL."""
    return sum(value for name, value in sample.cpu_us.items() if name in STORES)


def whole_cpu_us(sample: Sample) -> float:
    """The CPU time per unit of a side with its stores."""
    return own_cpu_us(sample) + stores_cpu_us(sample)


class Samples:
    """The samples of one run by workload, side and round."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples: dict[tuple[str, str], dict[int, Sample]] = {}
        for sample in samples:
            self._samples.setdefault((sample.workload, sample.side), {})[sample.round] = sample

    def of(self, workload: str, side: str) -> list[Sample]:
        """The samples of a side in the order of the rounds."""
        return list(self._samples.get((workload, side), {}).values())

    def median(self, workload: str, side: str, value: Value) -> float | None:
        """The median of `value`, None without samples."""
        return _median(value(sample) for sample in self.of(workload, side))

    def ratio(self, workload: str, side: str, base: str, value: Value, base_value: Value | None = None) -> float | None:
        """The median ratio of `value` of `side` and `base_value` (default: the same) of `base`."""
        return _median(
            None if mine is None or not its or its < 0 else mine / its
            for mine, its in self._pairs(workload, side, base, value, base_value or value)
        )

    def added(self, workload: str, side: str, base: str, value: Value) -> float | None:
        """The median difference of `value` between `side` and `base`."""
        return _median(
            None if mine is None or its is None else mine - its
            for mine, its in self._pairs(workload, side, base, value, value)
        )

    def added_ratio(self, workload: str, sides: tuple[str, str], base: str, value: Value) -> float | None:
        """The ratio of what two sides add to `base`. None unless both add something."""
        first, second = (self.added(workload, side, base, value) for side in sides)
        return first / second if first and second and first > 0 and second > 0 else None

    def _pairs(
        self, workload: str, side: str, base: str, value: Value, base_value: Value
    ) -> list[tuple[float | None, float | None]]:
        bases = self._samples.get((workload, base), {})
        mine = self._samples.get((workload, side), {})
        return [(value(mine[number]), base_value(bases[number])) for number in mine.keys() & bases.keys()]


def document(
    workloads: Sequence[Workload], sides: Sequence[str], samples: Sequence[Sample], setup: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole result of a run, in plain values for JSON."""
    by_name = Samples(samples)
    return {
        "setup": dict(setup),
        "headline": {side: headline(by_name, side, setup["streams"]) for side in sides if side != upstream.NAME},
        "workloads": [
            {
                "name": workload.name,
                "title": workload.title,
                "unit": workload.unit,
                "sides": {
                    side: _side(by_name, workload.name, side) for side in sides if by_name.of(workload.name, side)
                },
            }
            for workload in workloads
        ],
        "samples": [asdict(sample) for sample in samples],
    }


def headline(samples: Samples, side: str, streams: Sequence[int]) -> dict[str, float | None]:
    """The comparisons by which runs on different machines are compared."""
    middle = f"W2/{100 if 100 in streams else streams[0]}"
    most = f"W2/{max(streams)}"
    plain = envoy.NAME
    values = {
        "W1 requests/s ÷ plain Envoy": samples.ratio("W1", side, plain, attrgetter("per_s")),
        "W1 CPU per request without stores ÷ plain Envoy": samples.ratio("W1", side, plain, own_cpu_us),
        "W1 CPU per request of Envoy's process ÷ plain Envoy": samples.ratio(
            "W1", side, plain, lambda sample: sample.cpu_us.get("envoy")
        ),
        "W1 CPU per request of Redis and PostgreSQL ÷ plain Envoy": samples.ratio(
            "W1", side, plain, stores_cpu_us, own_cpu_us
        ),
        f"{middle} CPU per chunk without stores ÷ plain Envoy": samples.ratio(middle, side, plain, own_cpu_us),
        f"{middle} added p99 per chunk ÷ plain Envoy": samples.added_ratio(
            middle, (side, plain), upstream.NAME, attrgetter("p99_us")
        ),
        f"{most} chunks delivered ÷ chunks due": samples.median(
            most, side, lambda sample: sample.per_s / (max(streams) * CHUNKS_PER_S)
        ),
        f"{most} streams complete ÷ streams": samples.median(most, side, lambda sample: sample.complete / max(streams)),
        "W3 added p50, µs": samples.added("W3", side, upstream.NAME, attrgetter("p50_us")),
        "W3 added p50 ÷ FastAPI design": samples.added_ratio(
            "W3", (side, FASTAPI), upstream.NAME, attrgetter("p50_us")
        ),
        "PSS without stores, MB": _first_pss_mb(samples, most, side),
        "W1 requests/s, gateway ÷ this side": samples.ratio("W1", gateway.NAME, side, attrgetter("per_s")),
        "W1 CPU per request with stores, gateway ÷ this side": samples.ratio("W1", gateway.NAME, side, whole_cpu_us),
        f"{middle} CPU per chunk with stores, gateway ÷ this side": samples.ratio(
            middle, gateway.NAME, side, whole_cpu_us
        ),
        "W3 p50, gateway ÷ this side": samples.ratio("W3", gateway.NAME, side, attrgetter("p50_us")),
    }
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


def _first_pss_mb(samples: Samples, workload: str, side: str) -> float | None:
    """Of the first round, because a later one follows large bodies, after which allocators retain memory."""
    first = samples.of(workload, side)[:1]
    return sum(value for name, value in first[0].pss_mb.items() if name not in STORES) if first else None


def _side(samples: Samples, workload: str, side: str) -> dict[str, Any]:
    measured = samples.of(workload, side)
    names = ("per_s", "p50_us", "p99_us", "first_p50_us", "first_p99_us", "upstream_cpu_us", "generator_cpu_us")
    values = {name: samples.median(workload, side, attrgetter(name)) for name in names}
    values["own_cpu_us"] = samples.median(workload, side, own_cpu_us)
    services = dict.fromkeys(name for sample in measured for name in sample.cpu_us)
    statuses = sorted({status for sample in measured for status in sample.flood_per_s})
    return {
        **{name: None if value is None else round(value, 1) for name, value in values.items()},
        "units": sum(sample.units for sample in measured),
        "errors": sum(sample.errors for sample in measured),
        "cpu_us": {name: round(median(sample.cpu_us.get(name, 0.0) for sample in measured), 1) for name in services},
        "pss_mb": {name: round(measured[0].pss_mb.get(name, 0.0), 1) for name in services},
        "flood_per_s": {
            status: round(median(sample.flood_per_s.get(status, 0.0) for sample in measured), 1) for status in statuses
        },
        "per_s_ratio": _rounded(samples.ratio(workload, side, envoy.NAME, attrgetter("per_s"))),
        "cpu_ratio": _rounded(samples.ratio(workload, side, envoy.NAME, own_cpu_us)) if services else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
