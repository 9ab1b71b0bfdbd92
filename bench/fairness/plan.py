"""How long and how large the experiments are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SLOTS = 2
TOKENS_PER_S = 50


@dataclass(frozen=True)
class Scenario:
    """Tenants that always have requests in the queue: their weights, and the lengths of their answers in tokens."""

    name: str
    weights: Mapping[str, int]
    words: Mapping[str, tuple[int, int]]

    @property
    def title(self) -> str:
        """The weights, and the lengths if they differ."""
        weights = ":".join(map(str, self.weights.values()))
        lengths = [f"{low}" if low == high else f"{low} to {high}" for low, high in self.words.values()]
        return weights if len(set(lengths)) == 1 else f"{weights}, answers of {' and '.join(lengths)} tokens"


def _scenario(name: str, weights: Mapping[str, int], words: Mapping[str, tuple[int, int]] | None = None) -> Scenario:
    return Scenario(name, weights, words or dict.fromkeys(weights, (40, 160)))


SCENARIOS = (
    _scenario("equal", {"ann": 1, "ben": 1}),
    _scenario("three-to-one", {"alice": 3, "bob": 1}),
    _scenario("five", {"eve": 5, "dan": 3, "fay": 1, "gus": 1, "hal": 1}),
    _scenario("lengths", {"ida": 1, "jon": 1}, {"ida": (160, 160), "jon": (40, 40)}),
)


@dataclass(frozen=True)
class Plan:
    """The parameters of a run.

    `seconds` is the measured time of the scenarios, which run at the same time, after `warm_up_s`. `samples` is the
    number of Bob's chats in each situation. `waiting` callers wait at the same time, `leaving` callers disconnect while
    `staying` others wait; a tenant has `per_tenant` of them. Callers arrive at `arrivals_per_s`. With `one_start`, one
    gateway with one backend serves all experiments.
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS

    seconds: float = 600.0
    warm_up_s: float = 10.0
    callers: int = 6
    samples: int = 5
    neighbour_words: int = 100
    waiting: int = 2000
    leaving: int = 500
    staying: int = 200
    per_tenant: int = 50
    arrivals_per_s: float = 80.0
    wait_max_s: float = 120.0
    workers: int = 2
    one_start: bool = False


DEFAULT = Plan()
QUICK = Plan(seconds=60.0, samples=2, waiting=400, leaving=100, staying=50, wait_max_s=40.0)
# Proves that everything works. Its measurements mean nothing.
SMOKE = Plan(
    scenarios=SCENARIOS[1:2],
    seconds=1.0,
    warm_up_s=0.2,
    callers=2,
    samples=1,
    neighbour_words=12,
    waiting=12,
    leaving=6,
    staying=4,
    per_tenant=8,
    wait_max_s=20.0,
    workers=1,
    one_start=True,
)
