"""Tenants with a constant backlog at one replica, in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.queue.port import Queue, Ticket, Turn
from tests.gateway.queue.builders import replicas, running, ticket
from tests.gateway.quota.builders import Clock

TOKEN_MS = 20
RENEWAL_MS = 5000
POLL_MS = 1000


@dataclass(frozen=True)
class Load:
    """A tenant that has `backlog` requests in the queue at any time; output tokens are in the range `output`."""

    tenant: int
    weight: int = 1
    output: tuple[int, int] = (20, 200)
    backlog: int = 5


@dataclass
class Job:
    """One request. Its answer takes TOKEN_MS for each output token."""

    ticket: Ticket
    input_tokens: int
    output_tokens: int
    turn: Turn | None = None
    began_ms: int = 0

    @property
    def ends_ms(self) -> int:
        return self.began_ms + max(1, self.output_tokens) * TOKEN_MS

    def tokens(self, now_ms: int) -> int:
        """The input and output tokens so far."""
        return self.input_tokens + min(self.output_tokens, (now_ms - self.began_ms) // TOKEN_MS)


@dataclass
class Simulation:
    """Runs the loads at a replica with this number of slots. `waits_ms` has the waits of each tenant's requests."""

    queue: Queue
    clock: Clock
    loads: Sequence[Load]
    slots: int = 1
    seed: int = 1
    waits_ms: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 (a load, not a secret)
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._finished_tokens: Counter[int] = Counter()
        self._renewed_ms = self.clock.now_ms
        self._busy_ms = 0

    @property
    def tokens(self) -> Counter[int]:
        """The tokens that each tenant has used by now, those of running requests included."""
        running_tokens: Counter[int] = Counter()
        for job in self._running.values():
            running_tokens[job.ticket.tenant_id] += job.tokens(self.clock.now_ms)
        return self._finished_tokens + running_tokens

    async def run(self, seconds: int) -> float:
        """Advances the time, and returns the share of it in which slots were busy."""
        begins_ms, self._busy_ms = self.clock.now_ms, 0
        ends_ms = begins_ms + 1000 * seconds
        while self.clock.now_ms < ends_ms:
            waiting = Counter(job.ticket.tenant_id for job in self._waiting.values())
            for load in self.loads:
                await self._fill(load, waiting[load.tenant])
            next_ms = min(ends_ms, self.clock.now_ms + POLL_MS, *(job.ends_ms for job in self._running.values()))
            self._busy_ms += (next_ms - self.clock.now_ms) * len(self._running)
            self.clock.now_ms = next_ms
            await self._renew()
            for job in [job for job in self._running.values() if job.ends_ms <= next_ms]:
                await self._finish(job)
            await self._notice_turns()
        return self._busy_ms / (1000 * seconds * self.slots)

    async def _fill(self, load: Load, waiting: int) -> None:
        while waiting < load.backlog:
            waiting += not await self.submit(load)

    async def submit(self, load: Load) -> bool:
        """Sends one request of a tenant, and returns whether it began at once."""
        estimate = self._random.randint(5, 50)
        job = Job(
            ticket(
                tenant=load.tenant,
                weight=load.weight,
                tokens=estimate,
                candidates=replicas("a", slots=self.slots),
            ),
            input_tokens=self._random.randint(estimate // 2, 2 * estimate),
            output_tokens=self._random.randint(*load.output),
        )
        place = await self.queue.enter(job.ticket)
        self._waiting[job.ticket.request_id] = job
        if isinstance(place, Turn):
            self._begin(job, place)
        return isinstance(place, Turn)

    def _begin(self, job: Job, turn: Turn) -> None:
        job.turn, job.began_ms = turn, self.clock.now_ms
        self._running[job.ticket.request_id] = self._waiting.pop(job.ticket.request_id)
        assert len(self._running) <= self.slots
        self.waits_ms.setdefault(job.ticket.tenant_id, []).append(turn.waited_ms)

    async def _renew(self) -> None:
        if self.clock.now_ms < self._renewed_ms + RENEWAL_MS:
            return
        self._renewed_ms = self.clock.now_ms
        entries = [
            running(job.ticket, job.turn, job.tokens(self.clock.now_ms)) for job in self._running.values() if job.turn
        ]
        assert all(await self.queue.renew(entries))

    async def _finish(self, job: Job) -> None:
        tokens = job.tokens(self.clock.now_ms)
        del self._running[job.ticket.request_id]
        self._finished_tokens[job.ticket.tenant_id] += tokens
        assert await self.queue.finish(job.ticket.request_id, tokens)

    async def _notice_turns(self) -> None:
        ids = list(self._waiting)
        for request_id, place in zip(ids, await self.queue.poll(ids), strict=True):
            assert place is not None
            if isinstance(place, Turn):
                self._begin(self._waiting[request_id], place)


def jain_index(shares: Sequence[float]) -> float:
    """Jain, Chiu and Hawe, DEC-TR-301, 1984: 1 when all shares are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
