"""The job that the generator reads from stdin and the result that it writes to stdout, each as one line of JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

BEGIN = "begin"
END = "end"


@dataclass(frozen=True)
class Group:
    """Connections that send the same body, each with the next of `keys`. Without keys no credential is sent.

    A response with another status than `expected` counts as an error.
    """

    connections: int
    path: str
    body: str
    keys: Sequence[str] = ()
    expected: Sequence[int] = (200,)


@dataclass(frozen=True)
class Job:
    """One measurement against `host:port`.

    A closed loop sends the next request of a connection when the last one is answered. It is measured for `seconds`
    after `warm_up_s`. With `streams`, each connection of the only group opens one stream; the connections start evenly
    within `warm_up_s`, and the streams must last until the end of the measurement. A closed loop ends earlier when it
    has received `responses_max` responses.
    """

    host: str
    port: int
    groups: Sequence[Group]
    seconds: float
    warm_up_s: float
    streams: bool = False
    responses_max: int | None = None


@dataclass(frozen=True)
class GroupResult:
    """The responses, or chunks of streams, that arrived within the measured time.

    `p50_us` and `p99_us` are nearest-rank percentiles: of the time from request to the whole response, or of the age of
    a chunk at its arrival. `first_p50_us` and `first_p99_us` are the times to the first chunk of a stream.
    `complete` counts the streams that arrived whole. `statuses` counts all responses by status.
    """

    units: int
    errors: int
    p50_us: float | None
    p99_us: float | None
    statuses: dict[str, int] = field(default_factory=dict)
    complete: int = 0
    first_p50_us: float | None = None
    first_p99_us: float | None = None


@dataclass(frozen=True)
class Result:
    """The result of a job. `seconds` is the measured time, `generator_cpu_us` the generator's own CPU time in it."""

    groups: Sequence[GroupResult]
    seconds: float
    generator_cpu_us: float


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile of an ascending sequence, None if it is empty."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None
