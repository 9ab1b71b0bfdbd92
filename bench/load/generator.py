"""`python -m bench.load.generator`: runs the job on stdin and prints BEGIN and END when the measured time does so."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from bench.load.closed_loop import ClosedLoop
from bench.load.job import BEGIN, END, Group, Job, Result
from bench.load.streams import Streams

_GRACE_S = 5.0
_PROLONGED_S_MAX = 15.0
_PROLONGED_STEP_S = 0.1


def run(job: Job, report: Callable[[str], None]) -> Result:
    """Runs the job. `report` receives BEGIN and END at the start and the end of the measured time."""
    load = Streams(job) if job.streams else ClosedLoop(job)
    start = time.monotonic() + job.warm_up_s
    load.run_until(start)
    report(BEGIN)
    began, cpu_ns = time.monotonic(), time.process_time_ns()
    load.begin()
    load.run_until(start + job.seconds)
    # A response that takes longer than the measured time prolongs it.
    while load.is_waiting and time.monotonic() < start + job.seconds + _PROLONGED_S_MAX:
        load.run_until(time.monotonic() + _PROLONGED_STEP_S)
    cpu_ns, seconds = time.process_time_ns() - cpu_ns, time.monotonic() - began
    report(END)
    load.end(time.monotonic() + job.warm_up_s + _GRACE_S)
    return Result(load.results(), seconds, cpu_ns / 1000)


def main() -> None:
    """Reads the job as one line of JSON, and prints the result as the last line."""
    document = json.loads(sys.stdin.readline())
    document["groups"] = [Group(**group) for group in document["groups"]]

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    report(json.dumps(asdict(run(Job(**document), report))))


if __name__ == "__main__":
    main()
