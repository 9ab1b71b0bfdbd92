"""The arithmetic of shares and slots. Pure; times are seconds since the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Span:
    """The time in which a request had a slot, and the tokens that it used, spread evenly over that time."""

    begins_s: float
    ends_s: float
    tokens: float = 0.0

    def seconds_within(self, begin_s: float, end_s: float) -> float:
        """The part of the time that is between `begin_s` and `end_s`."""
        return max(0.0, min(self.ends_s, end_s) - max(self.begins_s, begin_s))

    def tokens_within(self, begin_s: float, end_s: float) -> float:
        """The tokens of that part."""
        if self.ends_s <= self.begins_s:
            return self.tokens if begin_s <= self.begins_s < end_s else 0.0
        return self.tokens * self.seconds_within(begin_s, end_s) / (self.ends_s - self.begins_s)


def jain_index(values: Iterable[float]) -> float:
    """Jain's fairness index, 1 if all values are equal and 1/n if one has all. `nan` without a positive value.

    Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination for Resource Allocation in Shared Computer
    Systems", DEC-TR-301, 1984.
    """
    listed = list(values)
    squares = sum(value * value for value in listed)
    return sum(listed) ** 2 / (len(listed) * squares) if squares else math.nan


def deviations(amounts: Mapping[str, float], weights: Mapping[str, int]) -> dict[str, float]:
    """By how much the share of each differs from its weight's share, relative to the latter; `nan` without amounts."""
    total, weight_sum = sum(amounts.values()) or math.nan, sum(weights.values())
    return {name: amounts[name] / total / (weight / weight_sum) - 1 for name, weight in weights.items()}


def busy_share(spans: Iterable[Span], slots: int, begin_s: float, end_s: float) -> float:
    """The part of the time of all slots in which they had a request."""
    return sum(span.seconds_within(begin_s, end_s) for span in spans) / (slots * (end_s - begin_s))


def most_at_once(spans: Iterable[Span]) -> int:
    """The largest number of spans that overlap."""
    changes = sorted((at, change) for span in spans for at, change in ((span.begins_s, 1), (span.ends_s, -1)))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def gaps_s(spans: Sequence[Span], slots: int) -> list[float]:
    """How long each slot was free until its next request began, in order of time.

    With n slots, request n + i takes the slot that the i-th end frees. A request that began before that end had another
    slot, and its gap is 0.
    """
    begins = sorted(span.begins_s for span in spans)
    ends = sorted(span.ends_s for span in spans)
    return [max(0.0, begin - end) for begin, end in zip(begins[slots:], ends, strict=False)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """The median, the nearest-rank 99th percentile and the largest of at least one value."""
    ordered = sorted(values)
    return {
        "median": median(ordered),
        "p99": ordered[math.ceil(len(ordered) * 0.99) - 1],
        "max": ordered[-1],
    }
