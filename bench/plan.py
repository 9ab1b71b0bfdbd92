"""How long and how often each workload is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The parameters of a run.

    `seconds` and `streams_s` are the measured times of one closed loop and of one measurement of streams. `streams` are
    the numbers of concurrent streams, `bodies_kib` the sizes of large bodies. `workers` is the number of processes of
    each service and of each other Python program, `priming` the number of requests to each side before the first
    measurement. With `one_start`, one start of the sides serves all workloads, with hashes of low cost.
    """

    rounds: int = 3
    seconds: float = 1.5
    warm_up_s: float = 0.3
    streams: tuple[int, ...] = (50, 100, 400)
    streams_s: float = 1.2
    streams_warm_up_s: float = 0.8
    bodies_kib: tuple[int, ...] = (256, 8192)
    connections: int = 32
    keys: int = 10_000
    tenants: int = 100
    first_use_s_max: float = 20.0
    workers: int = 2
    priming: int = 400
    one_start: bool = False


DEFAULT = Plan()
QUICK = Plan(rounds=1, seconds=1.0, streams=(50, 100), keys=500, tenants=10)
# Proves that everything works. Its measurements mean nothing.
SMOKE = Plan(
    rounds=1,
    seconds=0.2,
    warm_up_s=0.1,
    streams=(4,),
    streams_s=0.3,
    streams_warm_up_s=0.2,
    bodies_kib=(64,),
    connections=2,
    keys=4,
    tenants=2,
    first_use_s_max=2.0,
    workers=1,
    priming=20,
    one_start=True,
)
