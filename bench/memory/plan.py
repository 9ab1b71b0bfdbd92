"""How many requests and streams the measurement has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The parameters of a run.

    Memory is measured after each number of requests in `after_requests`, then with `streams` idle streams: when all are
    open, and `checks` times afterwards, every `check_every_s`. A busy service holds its requests, so each
    measurement comes `pause_s` after the requests. `workers` is the number of processes of each service.
    """

    after_requests: tuple[int, ...] = (10_000, 50_000, 100_000, 150_000, 200_000)
    streams: int = 2000
    checks: int = 3
    check_every_s: float = 60.0
    pause_s: float = 3.0
    connections: int = 32
    workers: int = 2


DEFAULT = Plan()
QUICK = Plan(after_requests=(2_000, 10_000, 20_000), streams=500, checks=1, check_every_s=10.0)
# Proves that everything works. Its measurements mean nothing.
SMOKE = Plan(after_requests=(40, 80), streams=8, checks=1, check_every_s=0.1, pause_s=0.1, connections=2, workers=1)
