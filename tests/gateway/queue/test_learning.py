"""The slots of a simulated replica are learnt from the times that meters report, whatever the delays on the way."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queue.port import AUTO, ReplicaStatus, Running, Ticket, Timing, Turn, Waiting
from tests.gateway.queue.builders import RULES, replicas, running, ticket
from tests.gateway.queue.conftest import Bench
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.quota.builders import Clock

CHUNK_MS, RENEWAL_MS, METERS = 20, 1000, 2


@dataclass
class Job:
    """A request. It is opened when its meter sees it, and started when it has a slot of the replica."""

    ticket: Ticket
    meter: int
    turn: Turn
    opened_ms: int
    prefill_ms: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None

    def timing(self, now_ms: int) -> Timing:
        """What the meter knows at `now_ms`."""
        first_ms = None if self.started_ms is None else self.started_ms + self.prefill_ms
        if first_ms is None or first_ms > now_ms:
            return Timing(None, 0, now_ms - self.opened_ms)
        last_ms = now_ms - (now_ms - first_ms) % CHUNK_MS if self.ended_ms is None else self.ended_ms
        return Timing(first_ms - self.opened_ms, last_ms - self.opened_ms, now_ms - self.opened_ms)

    @property
    def ending(self) -> Timing:
        """What the entry of the request has, which is made at its end."""
        assert self.ended_ms is not None
        timing = self.timing(self.ended_ms)
        return Timing(timing.first_ms, timing.age_ms, timing.age_ms)


@dataclass
class Load:
    """Callers that always have requests waiting at one replica with a line like Ollama's. Durations are ms.

    `slots` is the number that the replica has. `running_max` is the most requests that were in flight there.
    """

    slots: int
    answer_ms: tuple[int, int]
    prefill_ms: int
    seed: int
    running_max: int = 0
    learnt: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 (a load, not a secret)
        self.clock = Clock()
        self.queue = MemoryQueue(self.clock, RULES)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._line: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._waiting: dict[str, Ticket] = {}
        self._finished: list[Job] = []
        self._count = 0

    def _at(self, delay_ms: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.clock.now_ms + delay_ms, self._count, event))

    async def run(self, seconds: int) -> None:
        """Advances the time."""
        ends_ms = self.clock.now_ms + 1000 * seconds
        renewals = {meter: self.clock.now_ms + self._random.randrange(RENEWAL_MS) for meter in range(METERS)}
        while self.clock.now_ms < ends_ms:
            while len(self._waiting) < self.slots + 2:
                await self._submit()
            next_ms = min(ends_ms, *renewals.values(), *(at_ms for at_ms, _, _ in self._events[:1]))
            self.clock.now_ms = max(self.clock.now_ms, next_ms)
            while self._events and self._events[0][0] <= self.clock.now_ms:
                heapq.heappop(self._events)[2]()
            for job in self._finished:
                await self.queue.finish(job.ticket.request_id, 10, job.ending)
            self._finished.clear()
            for meter, at_ms in renewals.items():
                if at_ms <= self.clock.now_ms:
                    renewals[meter] = at_ms + RENEWAL_MS
                    await self._renew(meter)
            await self._notice_turns()
            slots = (await self.queue.status()).replicas["a"].slots
            if not self.learnt or self.learnt[-1][1] != slots:
                self.learnt.append((self.clock.now_ms, slots))

    async def _submit(self) -> None:
        new = ticket(candidates=replicas("a", slots=AUTO), body_bytes=0, tenant=self._random.randint(1, 20))
        place = await self.queue.enter(new)
        if isinstance(place, Turn):
            self._send(new, place)
        else:
            self._waiting[new.request_id] = new

    def _send(self, sent: Ticket, turn: Turn) -> None:
        delay_ms = self._random.randint(1, 30)
        job = Job(sent, self._random.randrange(METERS), turn, self.clock.now_ms + delay_ms, self.prefill_ms)
        self._running[sent.request_id] = job
        self.running_max = max(self.running_max, len(self._running))
        self._at(delay_ms, lambda: self._reach(job))

    def _reach(self, job: Job) -> None:
        self._line.append(job)
        self._start()

    def _start(self) -> None:
        in_slots = sum(job.started_ms is not None and job.ended_ms is None for job in self._running.values())
        while self._line and in_slots < self.slots:
            job = self._line.popleft()
            job.started_ms = self.clock.now_ms
            in_slots += 1
            self._at(self.prefill_ms + self._random.randint(*self.answer_ms), lambda job=job: self._end(job))  # type: ignore[misc]

    def _end(self, job: Job) -> None:
        job.ended_ms = self.clock.now_ms
        self._start()
        # The settlement reaches the store later.
        self._at(self._random.choice([1, 5, 300]), lambda: self._settle(job))

    def _settle(self, job: Job) -> None:
        del self._running[job.ticket.request_id]
        self._finished.append(job)

    async def _renew(self, meter: int) -> None:
        entries = [
            Running(
                job.ticket.request_id,
                job.ticket.tenant_id,
                job.ticket.key_id,
                1,
                "a",
                10,
                job.timing(self.clock.now_ms),
            )
            for job in self._running.values()
            if job.meter == meter and job.opened_ms <= self.clock.now_ms
        ]
        await self.queue.renew(entries)

    async def _notice_turns(self) -> None:
        ids = list(self._waiting)
        for request_id, place in zip(ids, await self.queue.poll(ids), strict=True):
            if isinstance(place, Turn):
                turn = await self.queue.enter(self._waiting[request_id])
                assert isinstance(turn, Turn)
                self._send(self._waiting.pop(request_id), turn)


@settings(max_examples=25)
@given(
    slots=st.integers(1, 6),
    answer_ms=st.sampled_from([(400, 900), (1000, 2000), (500, 5000), (3000, 3000)]),
    prefill_ms=st.sampled_from([1, 10, 60]),
    seed=st.integers(0, 10_000),
)
async def test_learnt_slots_reach_those_of_the_replica_and_exceed_them_by_one_probe(
    slots: int, answer_ms: tuple[int, int], prefill_ms: int, seed: int
) -> None:
    load = Load(slots, answer_ms, prefill_ms, seed)
    await load.run(60)
    assert max(learnt for _, learnt in load.learnt) == slots
    # A settlement reaches the queue before the next request is granted, so that those in flight are at most one more.
    assert load.running_max <= slots + 1
    assert load.learnt[-1][1] == slots


async def _start(bench: Bench) -> tuple[Ticket, Turn] | None:
    new = ticket(candidates=replicas("a", slots=AUTO))
    place = await bench.queue.enter(new)
    return (new, place) if isinstance(place, Turn) else None


async def _slots(bench: Bench) -> int:
    return (await bench.queue.status()).replicas["a"].slots


async def test_answers_that_grow_side_by_side_add_a_slot_each_and_the_end_of_one_adds_none(bench: Bench) -> None:
    tickets = [ticket(candidates=replicas("a", slots=AUTO)) for _ in range(8)]
    began: dict[str, tuple[Ticket, Turn, int]] = {}

    async def notice_turns() -> None:
        for each in tickets:
            place = await bench.queue.enter(each)
            if isinstance(place, Turn):
                began.setdefault(each.request_id, (each, place, bench.clock.now_ms))

    for expected in (1, 2, 3, 4):
        await notice_turns()
        # One more than the slots, never two.
        assert (await _slots(bench), len(began)) == (expected, expected + 1)
        if expected < 4:
            bench.clock.forward(0.9)
            now_ms = bench.clock.now_ms
            entries = [
                running(each, turn, 10, Timing(50, now_ms - at, now_ms - at)) for each, turn, at in began.values()
            ]
            assert all(await bench.queue.renew(entries))
    # The first token of this probe comes when an older request has ended, and it may have waited for that.
    bench.clock.forward(0.5)
    assert await bench.queue.finish(tickets[0].request_id, 10, Timing(50, 3200, 3200))
    bench.clock.forward(0.1)
    assert await bench.queue.finish(tickets[4].request_id, 10, Timing(550, 600, 600))
    assert await _slots(bench) == 4


async def test_another_model_at_the_replica_proves_nothing(bench: Bench) -> None:
    assert await _start(bench)
    other = replace(ticket(candidates=replicas("a", slots=AUTO)), model="other")
    assert isinstance(await bench.queue.enter(other), Waiting)


async def test_a_given_number_replaces_a_learnt_one(bench: Bench) -> None:
    assert await _start(bench)
    await bench.queue.set_slots({"a": 3})
    assert (await bench.queue.status()).replicas["a"] == ReplicaStatus(3, 1)
