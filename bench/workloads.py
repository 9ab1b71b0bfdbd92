"""The workloads W1 to W6, as jobs for the load generator."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from authz.keys.key_format import generate
from bench.load.job import Group, Job
from bench.load.upstream import CHUNK_INTERVAL_MS
from bench.plan import Plan
from bench.sides.side import Side

MODEL = "llama3.2"
CHUNKS_PER_S = 1000 // CHUNK_INTERVAL_MS
_LARGE_BODY_CONNECTIONS = 2
_FLOOD_CONNECTIONS = 8
_GOOD_CONNECTIONS = 8
_UNKNOWN_KEYS = 1000
# W4 and W6 answer whether something breaks, which needs fewer rounds than a ratio does.
_SECONDARY_ROUNDS_MAX = 2

Unit = str
REQUEST, CHUNK = "request", "chunk"


@dataclass(frozen=True)
class Workload:
    """One workload in one size. `job` returns its job for a side and the number of a round.

    A workload with `keyed` is only for sides that check keys. Only the first `rounds_max` rounds
    measure it.
    """

    name: str
    title: str
    job: Callable[[Side, int], Job]
    unit: Unit = REQUEST
    keyed: bool = False
    rounds_max: int = sys.maxsize

    @property
    def names(self) -> tuple[str, str]:
        """What selects it: the name, and the part before its slash."""
        return self.name, self.name.partition("/")[0]


def few_keys(plan: Plan) -> Iterator[Workload]:
    """The workloads with one key: W1, W2, W3, W4 and W6."""
    connections = plan.connections
    yield Workload("W1", f"small requests, closed loop, {connections} connections", _closed(plan, connections))
    for number in plan.streams:
        title = f"{number} streams at {CHUNKS_PER_S} chunks/s"
        yield Workload(f"W2/{number}", title, _streams(plan, number), unit=CHUNK)
    yield Workload("W3", "small requests, one connection", _closed(plan, 1))
    for size_kib in plan.bodies_kib:
        size = f"{size_kib // 1024} MiB" if size_kib >= 1024 else f"{size_kib} KiB"
        title = f"bodies of {size}, {_LARGE_BODY_CONNECTIONS} connections"
        job = _closed(plan, _LARGE_BODY_CONNECTIONS, "word " * (size_kib * 1024 // 5))
        yield Workload(f"W4/{size}", title, job, rounds_max=_SECONDARY_ROUNDS_MAX)
    title = f"small requests, {_GOOD_CONNECTIONS} connections"
    yield Workload("W6/calm", title, _closed(plan, _GOOD_CONNECTIONS), keyed=True, rounds_max=_SECONDARY_ROUNDS_MAX)
    flood = f"{title}, next to {_FLOOD_CONNECTIONS} that flood with unknown keys"
    yield Workload("W6/flood", flood, _flooded(plan), keyed=True, rounds_max=_SECONDARY_ROUNDS_MAX)


def many_keys(plan: Plan) -> Iterator[Workload]:
    """W5, for sides with all the keys of the plan."""
    title = f"{plan.keys:,} keys over {plan.tenants} tenants, {plan.connections} connections"

    def first_use(side: Side, _: int) -> Job:
        group = _small(side, plan.connections)
        return Job(side.host, side.port, [group], plan.first_use_s_max, 0.0, responses_max=len(side.keys))

    def later_use(side: Side, number: int) -> Job:
        group = _small(side, plan.connections)
        random.Random(number).shuffle(group.keys)  # type: ignore[arg-type]  # noqa: S311 (any order will do)
        return Job(side.host, side.port, [group], plan.seconds, plan.warm_up_s)

    yield Workload("W5/first", f"{title}, first use of each key", first_use, keyed=True, rounds_max=1)
    yield Workload("W5/later", f"{title}, keys in random order", later_use, keyed=True)


def body(prompt: str, *, stream: bool) -> str:
    """The body of a chat, which both dialects accept."""
    message = {"role": "user", "content": prompt}
    return json.dumps({"model": MODEL, "messages": [message], "stream": stream})


def _small(side: Side, connections: int) -> Group:
    return Group(connections, side.path, body("How are you?", stream=False), list(side.keys))


def _closed(plan: Plan, connections: int, prompt: str = "How are you?") -> Callable[[Side, int], Job]:
    def job(side: Side, _: int) -> Job:
        group = Group(connections, side.path, body(prompt, stream=False), side.keys)
        return Job(side.host, side.port, [group], plan.seconds, plan.warm_up_s)

    return job


def _streams(plan: Plan, streams: int) -> Callable[[Side, int], Job]:
    chunks = round((plan.streams_warm_up_s + plan.streams_s) * CHUNKS_PER_S)

    def job(side: Side, _: int) -> Job:
        group = Group(streams, side.path, body(f"chunks={chunks}", stream=True), side.keys)
        return Job(side.host, side.port, [group], plan.streams_s, plan.streams_warm_up_s, streams=True)

    return job


def _flooded(plan: Plan) -> Callable[[Side, int], Job]:
    def job(side: Side, _: int) -> Job:
        good = _small(side, _GOOD_CONNECTIONS)
        unknown = [generate().secret.get_secret_value() for _ in range(_UNKNOWN_KEYS)]
        flood = Group(_FLOOD_CONNECTIONS, side.path, good.body, unknown, expected=(401, 429))
        return Job(side.host, side.port, [good, flood], plan.seconds, plan.warm_up_s)

    return job
