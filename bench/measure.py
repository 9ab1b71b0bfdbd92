"""Runs workloads against sides by turns, and returns one sample for each measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import processes
from bench.load.job import BEGIN, END, Group, Job
from bench.processes import Services
from bench.sides.side import BenchFailed, Side
from bench.sides.upstream import ROOT
from bench.workloads import Workload, body

UPSTREAM = "upstream"
_PRIMING_CONNECTIONS = 16
_PRIMING_S_MAX = 20.0
_SENDING_S_MAX = 3600.0


@dataclass(frozen=True)
class Sample:
    """One measurement of one side.

    `per_s` counts units, which are requests or chunks. `cpu_us` is the CPU time per unit by service, `pss_mb` the
    memory by service afterwards. The times are those of `GroupResult`. `flood_per_s` are the responses to a second
    group by status.
    """

    workload: str
    side: str
    round: int
    units: int
    errors: int
    per_s: float
    p50_us: float | None
    p99_us: float | None
    cpu_us: dict[str, float]
    upstream_cpu_us: float
    generator_cpu_us: float
    pss_mb: dict[str, float]
    complete: int = 0
    first_p50_us: float | None = None
    first_p99_us: float | None = None
    flood_per_s: dict[str, float] = field(default_factory=dict)


def run(
    workloads: Iterable[Workload], sides: Sequence[Side], upstream: Side, rounds: int, report: Callable[[str], None]
) -> list[Sample]:
    """Measures every workload on every side in each round. The side that begins changes with the round."""
    samples = []
    chosen = list(workloads)
    for number in range(rounds):
        turn = number % len(sides)
        by_turns = [*sides[turn:], *sides[:turn]]
        for workload in chosen:
            if number >= workload.rounds_max:
                continue
            report(f"round {number + 1} of {rounds}: {workload.name}")
            measured = [side for side in by_turns if side.keys or not workload.keyed]
            samples += [measure(workload, side, upstream, number) for side in measured]
    return samples


def prime(side: Side, responses: int) -> None:
    """Sends requests until there are `responses`, so that connections are open and each process has verified the key.

    Raises BenchFailed if none is answered with 200.
    """
    result = _send(side, responses, _PRIMING_CONNECTIONS, _PRIMING_S_MAX)
    if not result["groups"][0]["units"]:
        raise BenchFailed(f"{side.name} answered no request with 200: {result['groups'][0]['statuses']}")


def send(side: Side, responses: int, connections: int) -> None:
    """Sends small requests in a closed loop until there are `responses`. Raises BenchFailed if one is not 200."""
    result = _send(side, responses, connections, _SENDING_S_MAX)
    group = result["groups"][0]
    if group["errors"] or group["units"] < responses:
        raise BenchFailed(f"{side.name}: {group['units']} of {responses} responses are 200: {group['statuses']}")


def measure(workload: Workload, side: Side, upstream: Side, number: int) -> Sample:
    """Measures a workload on a side once. A side that answers nothing in time has no units and no CPU time per unit."""
    services = {**side.services(), **upstream.services()}
    result, spent_us = _generate(workload.job(side, number), services)
    main, *others = result["groups"]
    units, seconds = main["units"], result["seconds"]
    cpu_us = {name: value / units for name, value in spent_us.items()} if units else {}
    upstream_cpu_us = cpu_us.pop(UPSTREAM, 0.0)
    return Sample(
        workload.name,
        side.name,
        number,
        units,
        main["errors"],
        units / seconds,
        main["p50_us"],
        main["p99_us"],
        cpu_us,
        upstream_cpu_us,
        result["generator_cpu_us"] / max(units, 1),
        {name: value for name, value in processes.pss_mb(services).items() if name != UPSTREAM},
        main["complete"],
        main["first_p50_us"],
        main["first_p99_us"],
        {status: count / seconds for each in others for status, count in each["statuses"].items()},
    )


def _send(side: Side, responses: int, connections: int, seconds_max: float) -> dict[str, Any]:
    group = Group(connections, side.path, body("How are you?", stream=False), side.keys[:1])
    result, _ = _generate(Job(side.host, side.port, [group], seconds_max, 0.0, responses_max=responses), {})
    return result


def _generate(job: Job, services: Services) -> tuple[dict[str, Any], dict[str, float]]:
    """The generator's result, and the CPU time of each service within the measured time."""
    command = [sys.executable, "-S", "-m", "bench.load.generator"]
    with subprocess.Popen(  # noqa: S603 (the project's own program)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    ) as generator:
        try:
            assert generator.stdin and generator.stdout  # noqa: S101 (narrows the types)
            generator.stdin.write(json.dumps(asdict(job)) + "\n")
            generator.stdin.close()
            spent: dict[str, dict[str, float]] = {}
            for line in generator.stdout:
                if line.strip() not in (BEGIN, END):
                    result = json.loads(line)
                    return result, {name: spent[END][name] - value for name, value in spent[BEGIN].items()}
                spent[line.strip()] = processes.cpu_us(services)
            raise BenchFailed("the load generator failed")
        finally:
            generator.kill()
