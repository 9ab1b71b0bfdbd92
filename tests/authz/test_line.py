"""The wait of a request for its slot, against a turnstile in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from authz.line import Line, Passed, Stopped
from authz.waiting import WaitingRequests
from gateway.errors import Code, StoreUnavailable
from gateway.queue.port import Candidate, Ticket
from gateway.quota.port import Admission, LimitStatus, Parked, ReservationDenied, Reserved
from gateway.record.entry import Entry
from gateway.values import Budgets, Limits, Outcome, Priority
from gateway.wire.surfaces import BY_NAME
from gateway.wire.timeouts import BUSY_BACK_OFF_MAX_S
from tests.meter.wire_corpus import grant_for, json_of
from tests.polling import eventually_async

LIMITS = Limits(1, 1, 1)
STATUS = LimitStatus(1, 1, 1, 1, None, None, 1)
RESERVED = Reserved(5, 3, 4, STATUS, "backend:a", 40)
PARKED = Parked(7, 7, "token")
TICKET = Ticket("r", 1, 2, 1, Priority.INTERACTIVE, 3, 4, (Candidate("backend:a", 0, 1),), "worker")


def admission() -> Admission:
    """An admission whose draft is that of a real grant."""
    sealed = json_of(grant_for(BY_NAME["chat"], request_id="r"))
    draft = sealed[: sealed.index(',"admitted_at_ms"')] + "}"
    return Admission("r", 1, 2, LIMITS, LIMITS, Budgets(), Budgets(), "m", 3, 4, draft)


@dataclass
class MemoryTurnstile:
    """Answers the first calls with `answers`. `ready` are the requests that `poll` reports.

    `left` has the requests of each call of `leave`, which fails if `fails`. Calls wait for `entered`, if there is one.
    """

    answers: list[Reserved | Parked | ReservationDenied]
    ready: set[str] = field(default_factory=set)
    calls: list[Parked | None] = field(default_factory=list)
    left: list[list[str]] = field(default_factory=list)
    delay_s: float = 0.0
    fails: bool = False
    entered: asyncio.Event | None = None

    async def enter(
        self,
        admission: Admission,  # noqa: ARG002
        ticket: Ticket,  # noqa: ARG002
        parked: Parked | None = None,
    ) -> Reserved | Parked | ReservationDenied:
        """The next answer."""
        self.calls.append(parked)
        if self.entered is not None:
            await self.entered.wait()
        if parked:
            await asyncio.sleep(self.delay_s)
        return self.answers.pop(0)

    async def poll(self, request_ids: Sequence[str]) -> list[bool]:
        """Whether each request is in `ready`."""
        return [request_id in self.ready for request_id in request_ids]

    async def leave(self, request_ids: Sequence[str]) -> None:
        """Notes the call."""
        self.left.append(list(request_ids))
        if self.fails:
            raise StoreUnavailable("no reply")


class MemoryTurns:
    """Notifications from a queue in memory."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[Callable[[float], Awaitable[str | None]]]:  # noqa: ARG002
        """Yields the reader."""

        async def next_turn(timeout_s: float) -> str | None:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self.sent.get()
            except TimeoutError:
                return None

        yield next_turn


@dataclass
class Bench:
    """A line whose parts are in memory, and the entries that it submitted."""

    turnstile: MemoryTurnstile
    turns: MemoryTurns
    waiting: WaitingRequests
    line: Line
    submitted: list[Entry]
    deadline: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    ends_s: float = 0.0

    @property
    def extended_s(self) -> float:
        """How much later the deadline is than at first."""
        return round((self.deadline.when() or self.ends_s) - self.ends_s, 3)

    async def has_parked(self) -> bool:
        """Whether the request waits."""
        return self.extended_s > 0

    async def entered(self, calls: int) -> None:
        """Waits until the turnstile has had this number of calls."""
        await eventually_async(lambda: len(self.turnstile.calls) == calls, 5)

    async def pass_through(self, timeout_s: float = 60.0) -> Passed | Stopped:
        """Lets the request pass within a check that has this time."""
        self.ends_s = asyncio.get_running_loop().time() + timeout_s
        async with asyncio.timeout_at(self.ends_s) as self.deadline:
            return await self.line.pass_through(admission(), TICKET, self.deadline)


@asynccontextmanager
async def benched(
    *answers: Reserved | Parked | ReservationDenied, wait_max_s: float = 30.0, ready: bool = False
) -> AsyncIterator[Bench]:
    turnstile, turns = MemoryTurnstile(list(answers), {"r"} if ready else set()), MemoryTurns()
    waiting = WaitingRequests(turnstile, turns, "worker", wait_max_s)
    submitted: list[Entry] = []
    following = asyncio.create_task(waiting.run())
    try:
        yield Bench(turnstile, turns, waiting, Line(turnstile, waiting, submitted.append), submitted)
    finally:
        following.cancel()


async def test_a_free_slot_needs_one_call_and_no_wait() -> None:
    async with benched(RESERVED) as bench:
        assert await bench.pass_through() == Passed(RESERVED, None)
        assert (bench.turnstile.calls, bench.extended_s, bench.waiting.waiting) == ([None], 0, 0)


@pytest.mark.parametrize(("wait_max_s", "queued_ms", "retries"), [(30, 0, 20), (30, 29_000, 0), (8, 500, 5), (1, 0, 0)])
async def test_the_retries_at_a_busy_server_last_at_most_as_long_as_the_longest_wait(
    wait_max_s: float, queued_ms: int, retries: int
) -> None:
    async with benched(wait_max_s=wait_max_s) as bench:
        assert bench.line.busy_retries(queued_ms) == retries
    assert queued_ms / 1000 + retries * BUSY_BACK_OFF_MAX_S <= max(wait_max_s, queued_ms / 1000)


async def test_a_notified_request_is_admitted_with_its_place() -> None:
    async with benched(PARKED, RESERVED) as bench:
        bench.turns.sent.put_nowait("other")
        bench.turns.sent.put_nowait("r")
        passed = await bench.pass_through()
        assert isinstance(passed, Passed)
        assert passed.answer == RESERVED
        assert (bench.turnstile.calls, bench.extended_s, bench.waiting.waiting) == ([None, PARKED], 30, 0)


async def test_a_poll_makes_up_for_a_lost_notification() -> None:
    async with benched(PARKED, RESERVED, ready=True) as bench:
        assert isinstance(await bench.pass_through(), Passed)


async def test_after_the_longest_wait_the_queue_decides() -> None:
    denied = ReservationDenied(Code.QUEUE_TIMEOUT, 3, STATUS)
    async with benched(PARKED, denied, wait_max_s=0.05) as bench:
        passed = await bench.pass_through()
        assert isinstance(passed, Passed)
        assert passed.answer == denied


async def test_a_caller_that_leaves_has_one_row_without_tokens() -> None:
    async with benched(PARKED) as bench:
        waits = asyncio.create_task(bench.pass_through())
        await eventually_async(bench.has_parked, 5)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        (entry,) = bench.submitted
        assert (entry.request_id, entry.ts_ms, entry.status, entry.outcome) == ("r", 7, 499, Outcome.CLIENT_GONE)
        assert (entry.input_tokens, entry.output_tokens, entry.reserved_tokens) == (0, 0, 0)
        assert entry.queued_ms is not None
        assert bench.waiting.waiting == 0


async def test_callers_that_leave_together_free_their_places_in_one_call() -> None:
    async with benched(*[PARKED] * 3) as bench:
        waits = [asyncio.create_task(bench.line.pass_through(admission(), TICKET, bench.deadline)) for _ in range(3)]
        await bench.entered(3)
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await eventually_async(lambda: bench.turnstile.left, 5)
        assert bench.turnstile.left == [["r"] * 3]
        assert len(bench.submitted) == 3


async def test_callers_that_leave_free_their_places_after_a_call_that_failed() -> None:
    async with benched(PARKED, PARKED) as bench:
        for calls, fails in enumerate((True, False), 1):
            bench.turnstile.fails = fails
            waits = asyncio.create_task(bench.pass_through())
            await bench.entered(calls)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
        await eventually_async(lambda: bench.turnstile.left == [["r"], ["r"]], 5)
        assert len(bench.submitted) == 2


async def test_a_caller_that_leaves_before_its_place_is_known_frees_it() -> None:
    async with benched(PARKED) as bench:
        bench.turnstile.entered = asyncio.Event()
        waits = asyncio.create_task(bench.pass_through())
        await bench.entered(1)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await eventually_async(lambda: bench.turnstile.left == [["r"]], 5)
        assert bench.submitted == []


async def test_a_check_whose_deadline_passes_leaves_the_row_to_its_denial() -> None:
    async with benched(PARKED, wait_max_s=0.05) as bench:
        bench.turnstile.delay_s = 30.0
        with pytest.raises(TimeoutError):
            await bench.pass_through(timeout_s=0.2)
        assert bench.turnstile.calls == [None, PARKED]
        assert bench.submitted == []


async def test_a_process_that_stops_denies_those_that_wait_with_a_short_retry() -> None:
    async with benched(PARKED, PARKED) as bench:
        waits = asyncio.create_task(bench.pass_through())
        await eventually_async(bench.has_parked, 5)
        bench.waiting.stop()
        for stopped in (await waits, await bench.pass_through()):
            assert isinstance(stopped, Stopped)
            assert (stopped.denied.code, stopped.denied.retry_after_s) == (Code.UNAVAILABLE, 1)
        assert bench.submitted == []
