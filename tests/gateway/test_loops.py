from __future__ import annotations

import asyncio

import pytest
import structlog

from gateway.errors import StoreUnavailable
from gateway.loops import LASTING_S, Backoff, forever, retry

BACKOFF = Backoff(first_s=1.0, max_s=5.0)


class Stop(Exception):
    """Ends a loop that has no end."""


class Steps:
    """A step that fails or returns as scripted, and the pauses between the steps."""

    def __init__(self, *script: float | Exception | None) -> None:
        self.script = list(script)
        self.pauses: list[float] = []

    async def __call__(self) -> float | None:
        if not self.script:
            raise Stop
        result = self.script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def run(steps: Steps) -> None:
    with pytest.raises(Stop):
        await forever(steps, 7.0, on_error="step_failed", backoff=BACKOFF, sleep=steps.sleep)


async def test_a_step_runs_again_after_the_interval_or_after_what_it_returns() -> None:
    steps = Steps(None, 0.5, None)
    await run(steps)
    assert steps.pauses == [7.0, 0.5, 7.0]


async def test_failures_in_a_row_double_the_pause_up_to_its_maximum_and_a_success_resets_it() -> None:
    failure = StoreUnavailable("Redis did not answer in time")
    steps = Steps(failure, failure, failure, failure, failure, None, failure)
    with structlog.testing.capture_logs() as logs:
        await run(steps)
    ranges = [(0.75, 1.0), (1.5, 2.0), (3.0, 4.0), (3.75, 5.0), (3.75, 5.0), (7.0, 7.0), (0.75, 1.0)]
    assert all(least <= pause <= most for pause, (least, most) in zip(steps.pauses, ranges, strict=True)), steps.pauses
    assert [entry["failures"] for entry in logs] == [1, 2, 4, 1]
    assert {(entry["event"], entry["reason"]) for entry in logs} == {("step_failed", "Redis did not answer in time")}


async def test_a_failure_after_a_step_that_lasted_begins_a_new_row() -> None:
    failure = StoreUnavailable("the connection broke")
    steps = Steps(failure, failure, failure)
    # A reading before and one after each step: the first and the third fail at once.
    times = iter([0.0, 0.0, 1.0, 1.0 + LASTING_S, 20.0, 20.0, 21.0])
    with structlog.testing.capture_logs() as logs, pytest.raises(Stop):
        await forever(
            steps,
            7.0,
            on_error="step_failed",
            backoff=BACKOFF,
            sleep=steps.sleep,
            monotonic=lambda: next(times),
            uniform=lambda _, most: most,
        )
    assert steps.pauses == [1.0, 1.0, 2.0]
    assert [entry["failures"] for entry in logs] == [1, 1, 2]


async def test_jitter_shortens_the_interval_and_no_other_pause() -> None:
    steps = Steps(None, 3.0)
    with pytest.raises(Stop):
        await forever(
            steps, 8.0, on_error="step_failed", jitter=0.25, sleep=steps.sleep, uniform=lambda least, _: least
        )
    assert steps.pauses == [6.0, 3.0]


async def test_an_error_that_is_not_transient_ends_the_loop() -> None:
    steps = Steps(ValueError("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        await forever(steps, 7.0, on_error="step_failed", sleep=steps.sleep)
    assert steps.pauses == []


async def test_a_wake_ends_the_wait_and_counts_once() -> None:
    ran: asyncio.Queue[None] = asyncio.Queue()
    wake = asyncio.Event()

    async def step() -> None:
        ran.put_nowait(None)

    loop = asyncio.create_task(forever(step, 3600.0, on_error="step_failed", wake=wake))
    async with asyncio.timeout(10):
        await ran.get()
        wake.set()
        await ran.get()
    assert not wake.is_set()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_cancelling_ends_the_loop_at_once() -> None:
    loop = asyncio.create_task(forever(Steps(None), 3600.0, on_error="step_failed"))
    await asyncio.sleep(0)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_call_is_repeated_until_it_succeeds() -> None:
    steps = Steps(StoreUnavailable("one"), StoreUnavailable("two"), 5.0)
    with structlog.testing.capture_logs() as logs:
        result = await retry(steps, on_error="call_failed", backoff=BACKOFF, sleep=steps.sleep, request_id="r")
    assert result == 5.0
    assert [(entry["reason"], entry["request_id"]) for entry in logs] == [("one", "r"), ("two", "r")]
    assert len(steps.pauses) == 2
