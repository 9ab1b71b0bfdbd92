"""What happened between two scrapes of the services' metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

REQUESTS = "neuronetz_authz_requests_total"
DELIVERED_TOKENS = "neuronetz_delivered_tokens_total"
LEASES = "neuronetz_leases"
QUEUE_WAITING = "neuronetz_queue_waiting"

ADMITTED = "ok"
"""The code label of an admitted request."""

Samples: TypeAlias = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""The value of each time series of one process, by the metric's name and its labels."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of each process that answered, by its address. `taken_s` is monotonic."""

    taken_s: float
    processes: Mapping[str, Samples]

    def total(self, name: str) -> float:
        """The sum of a metric over all processes and labels."""
        return sum(self.by_label(name, "").values())

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The sums of a metric over all processes, by the values of one label."""
        sums: dict[str, float] = {}
        for samples in self.processes.values():
            for (metric, labels), value in samples.items():
                if metric == name:
                    key = dict(labels).get(label, "")
                    sums[key] = sums.get(key, 0.0) + value
        return sums


def increase(earlier: Scrape, later: Scrape, name: str, label: str) -> dict[str, float]:
    """By how much a counter rose between two scrapes, by the values of one label, without those that did not rise.

    A process whose counter is lower than before has restarted and counted from zero. A process that did not answer the
    earlier scrape counts nothing, because its value may be older than that.
    """
    sums: dict[str, float] = {}
    for process, samples in later.processes.items():
        before = earlier.processes.get(process)
        for (metric, labels), value in samples.items():
            if metric != name or before is None:
                continue
            previous = before.get((metric, labels), 0.0)
            if rose := value - previous if value >= previous else value:
                key = dict(labels).get(label, "")
                sums[key] = sums.get(key, 0.0) + rose
    return sums


@dataclass(frozen=True, slots=True)
class Denial:
    """The denials with one code: within the window, and since the workers started."""

    code: str
    recent: int
    total: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What the services did between two scrapes, `window_s` seconds apart.

    `denials` are those of the window and before it, the most recent ones first. Tokens are output tokens.
    """

    window_s: float
    running: int
    waiting: int
    requests_per_second: float
    tokens_per_second: float
    tenant_tokens_per_second: Mapping[str, float]
    denials: tuple[Denial, ...]


def activity(denials_since: Scrape, earlier: Scrape, later: Scrape) -> Activity:
    """The rates between `earlier` and `later`, and the denials since `denials_since`."""
    seconds = max(later.taken_s - earlier.taken_s, 0.001)
    tokens = {each: rose / seconds for each, rose in increase(earlier, later, DELIVERED_TOKENS, "tenant").items()}
    recent = increase(denials_since, later, REQUESTS, "code")
    totals = later.by_label(REQUESTS, "code")
    denials = (
        Denial(code, round(recent.get(code, 0)), round(total))
        for code, total in totals.items()
        if code != ADMITTED and total
    )
    return Activity(
        window_s=later.taken_s - denials_since.taken_s,
        running=round(later.total(LEASES)),
        waiting=round(later.total(QUEUE_WAITING)),
        requests_per_second=sum(increase(earlier, later, REQUESTS, "code").values()) / seconds,
        tokens_per_second=sum(tokens.values()),
        tenant_tokens_per_second=tokens,
        denials=tuple(sorted(denials, key=lambda each: (-each.recent, -each.total, each.code))),
    )
