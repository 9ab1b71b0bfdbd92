"""Every interleaving of operations keeps the invariants, and both implementations answer identically at every step.

The state of the test is minimal: the requests that are alive, and what they were promised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.queue.port import (
    AUTO,
    ENDED_MS,
    UNKNOWN,
    Candidate,
    Ended,
    Queue,
    QueueFull,
    QueueRules,
    QueueStatus,
    QueueTimeout,
    Running,
    Ticket,
    Timing,
    Turn,
    Waiting,
)
from gateway.queue.redis.keys import NAMES, of_queue
from gateway.queue.redis.queue import RedisQueue
from gateway.stores.redis import Redis, connect
from gateway.values import Priority
from tests.gateway.queue.builders import running, settings_for, ticket
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.quota.builders import Clock

RULES = QueueRules(wait_max_s=30, tickets_max=4, bytes_max=1000, ticket_lease_s=5, slot_lease_s=15, restore_s=1.5)
# The slots of the first two are given, those of the third are learnt.
GIVEN = ("a", "b")
REPLICAS = (*GIVEN, "c")
T = TypeVar("T")

candidates = st.lists(st.tuples(st.sampled_from(REPLICAS), st.integers(0, 1)), min_size=1, unique_by=itemgetter(0)).map(
    lambda pairs: tuple(Candidate(name, rank, 1 if name in GIVEN else AUTO) for name, rank in pairs)
)
timings = st.sampled_from(
    [UNKNOWN, Timing(None, 0, 900), Timing(1, 999, 1000), Timing(0, 1, 5), Timing(400, 2100, 2100)]
)
arrivals = st.builds(
    # Keys 11 and 12 are of tenant 1.
    lambda key, **fields: partial(ticket, tenant=key // 10, key=key, **fields),
    key=st.sampled_from([11, 12, 21, 31]),
    weight=st.sampled_from([1, 3]),
    priority=st.sampled_from(Priority),
    tokens=st.sampled_from([0, 1, 10, 10, 30]),
    body_bytes=st.sampled_from([0, 100, 900]),
    candidates=candidates,
)


@dataclass
class Alive:
    """A request that has not ended: its ticket, its arrival, and the turn that it had last."""

    ticket: Ticket
    arrived_at_ms: int
    turn: Turn | None = None

    def running(self, tokens: int, timing: Timing) -> Running:
        """The request as its meter knows it."""
        assert self.turn
        return running(self.ticket, self.turn, tokens, timing)


class QueueMachine(RuleBasedStateMachine):
    """Drives the queue in memory, and the one in Redis too when `redis_url` is set."""

    redis_url: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.memory = MemoryQueue(self.clock, RULES)
        self.queues: list[Queue] = [self.memory]
        self.redis: Redis | None = None
        if self.redis_url:
            self.loop.run_until_complete(self._with_redis(self.redis_url))
        self.alive: dict[str, Alive] = {}
        self.ended: dict[str, tuple[Ticket, int]] = {}
        self.slots: dict[str, int] = {}
        # The learnt slots.
        self.learnt = 1
        # Replicas whose slots were reduced, or at which a request was re-established.
        self.overfull: set[str] = set()

    async def _with_redis(self, url: str) -> None:
        self.redis = connect(settings_for(url))
        await self.redis.flushall()
        self.queues.append(RedisQueue(self.redis, 5.0, RULES, self.clock))

    def teardown(self) -> None:
        if self.redis:
            self.loop.run_until_complete(self.redis.aclose())
        self.loop.close()

    def each(self, call: Callable[[Queue], Awaitable[T]]) -> T:
        """The answer of all implementations, which must be identical. Notes the turns of all requests afterwards."""

        async def all_answers() -> list[T]:
            answers = [await call(queue) for queue in self.queues]
            if self.redis:
                await self._places_are_identical(self.redis)
            return answers

        answers = self.loop.run_until_complete(all_answers())
        assert all(answer == answers[0] for answer in answers), answers
        for request_id, place in self.memory.places.items():
            if request_id in self.alive:
                self.alive[request_id].turn = place if isinstance(place, Turn) else None
        return answers[0]

    async def _places_are_identical(self, redis: Redis) -> None:
        slots, tickets, leases = await self._stored(redis)
        places = self.memory.places
        assert slots == {each: place.replica for each, place in places.items() if isinstance(place, Turn)}
        assert tickets == {each for each, place in places.items() if isinstance(place, Waiting)}
        assert leases == set(places)

    async def _stored(self, redis: Redis) -> tuple[dict[str, str], set[str], set[str]]:
        """The replicas of the slots, the ids of the tickets, and the ids of all leases in Redis."""
        names: Any = dict(zip(NAMES, of_queue(), strict=True))
        pipeline: Any = redis.pipeline(transaction=False)
        pipeline.hgetall(names["slots"]).hkeys(names["tickets"]).zrange(names["leases"], 0, -1)
        slots, tickets, leases = await pipeline.execute()
        return (
            {request_id.decode(): slot.decode().partition("\t")[0] for request_id, slot in slots.items()},
            {request_id.decode() for request_id in tickets},
            {request_id.decode() for request_id in leases},
        )

    @initialize(slots=st.fixed_dictionaries({name: st.integers(1, 2) for name in GIVEN}))
    def begin(self, slots: dict[str, int]) -> None:
        self.slots = slots
        self.each(lambda queue: queue.set_slots(slots))

    @rule(arrive=st.lists(arrivals, min_size=1, max_size=5))
    def enter(self, arrive: list[Callable[[], Ticket]]) -> None:
        for each in arrive:
            self._enter(each())

    def _enter(self, new: Ticket) -> None:
        place = self.each(lambda queue: queue.enter(new))
        waiting = [
            each
            for request_id, each in self.alive.items()
            if each.ticket.tenant_id == new.tenant_id and isinstance(self.memory.places.get(request_id), Waiting)
        ]
        waiting_bytes = sum(each.ticket.body_bytes for each in waiting)
        is_full = len(waiting) >= RULES.tickets_max or waiting_bytes + new.body_bytes > RULES.bytes_max
        if isinstance(place, QueueFull):
            assert is_full
            assert place.retry_after_s >= 1
            return
        assert isinstance(place, Turn | Waiting)
        assert isinstance(place, Turn) or not is_full
        assert place.arrived_at_ms == self.clock.now_ms
        self.alive[new.request_id] = Alive(new, place.arrived_at_ms, place if isinstance(place, Turn) else None)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def enter_again(self, data: st.DataObject) -> None:
        each = self._one(data)
        again = replace(each.ticket, arrived_at_ms=each.arrived_at_ms)
        place = self.each(lambda queue: queue.enter(again))
        if isinstance(place, QueueTimeout):
            assert self.clock.now_ms >= each.arrived_at_ms + 1000 * RULES.wait_max_s
            self._end(each)
        else:
            assert isinstance(place, Turn | Waiting)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        """A request that was known a moment ago is still known, because its lease is extended first."""
        before = set(self.memory.places)
        ids = data.draw(st.lists(st.sampled_from(sorted(self.alive)), unique=True, min_size=1))
        places = self.each(lambda queue: queue.poll(ids))
        assert [place is not None for place in places] == [request_id in before for request_id in ids]

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), costs=st.lists(st.sampled_from([0, 1, 10, 10, 30]), min_size=1, max_size=6), timing=timings)
    def serve(self, data: st.DataObject, costs: list[int], timing: Timing) -> None:
        """Running requests finish one after the other, and the next ones get their slots."""
        for tokens in costs:
            if granted := [each for each, place in self.memory.places.items() if isinstance(place, Turn)]:
                each = self.alive[data.draw(st.sampled_from(granted))]
                assert self.each(lambda queue, each=each, n=tokens: queue.finish(each.ticket.request_id, n, timing))  # type: ignore[misc]
                self._end(each)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), tokens=st.integers(0, 60))
    def finish(self, data: st.DataObject, tokens: int) -> None:
        each = self._one(data)
        is_known = each.ticket.request_id in self.memory.places
        assert self.each(lambda queue: queue.finish(each.ticket.request_id, tokens)) == is_known
        self._end(each)

    @precondition(lambda self: any(each.turn for each in self.alive.values()))
    @rule(data=st.data(), tokens=st.integers(0, 60), timing=timings, retried_at=st.none() | st.sampled_from(REPLICAS))
    def renew(self, data: st.DataObject, tokens: int, timing: Timing, retried_at: str | None) -> None:
        """Requests that have a slot, or had it until it expired or was lost, and ended ones."""
        granted = sorted(request_id for request_id, each in self.alive.items() if each.turn)
        ids = data.draw(st.lists(st.sampled_from(granted), unique=True, min_size=1))
        entries = [self.alive[request_id].running(tokens, timing) for request_id in ids]
        self.overfull |= {each.replica for each in entries if each.request_id not in self.memory.places}
        if retried_at:
            entries[0] = replace(entries[0], replica=retried_at)
            self.overfull.add(retried_at)
        elif data.draw(st.booleans()):
            # The meter still has the replica of the grant.
            wrong = data.draw(st.sampled_from(REPLICAS))
            is_known = entries[0].request_id in self.memory.places
            entries[0] = replace(entries[0], replica=entries[0].replica if not is_known else wrong, answers=False)
        ended = [running(each, Turn("a", 0, 0), tokens) for each in self._remembered()[-2:]]
        renewed = self.each(lambda queue: queue.renew([*entries, *ended]))
        assert renewed == [True] * len(entries) + [False] * len(ended)
        for each in entries:
            place = self.memory.places[each.request_id]
            assert isinstance(place, Turn)
            assert place.replica == each.replica or not each.answers

    @precondition(lambda self: any(isinstance(place, Waiting) for place in self.memory.places.values()))
    @rule(data=st.data(), tokens=st.integers(0, 60), replica=st.sampled_from(REPLICAS), answers=st.booleans())
    def renew_a_ticket(self, data: st.DataObject, tokens: int, replica: str, answers: bool) -> None:
        """The next attempt of a request waits, or went on without its turn."""
        waiting = sorted(request_id for request_id, place in self.memory.places.items() if isinstance(place, Waiting))
        each = self.alive[data.draw(st.sampled_from(waiting))]
        entry = replace(running(each.ticket, Turn(replica, 0, 0), tokens), answers=answers)
        if answers:
            self.overfull.add(replica)
        assert self.each(lambda queue: queue.renew([entry])) == [True]
        if answers:
            place = self.memory.places[entry.request_id]
            assert isinstance(place, Turn)
            assert place.replica == replica

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        replica=st.sampled_from(REPLICAS),
        attempt=st.integers(2, 4),
        times=st.integers(1, 2),
    )
    def move(self, data: st.DataObject, replica: str, attempt: int, times: int) -> None:
        """A request moves, twice when the first reply is lost, or an earlier attempt does."""
        each = self._one(data)
        request_id = each.ticket.request_id
        known, has_slots = self.memory.places.get(request_id), replica in self.memory.replicas
        is_stale = self.memory.is_stale(request_id, attempt)
        places = [self.each(lambda queue: queue.move(request_id, replica, attempt)) for _ in range(times)]
        if known is None:
            assert places == [Ended()] * times
            return
        assert places == [places[0]] * times
        place = places[0]
        assert not isinstance(place, Ended)
        if is_stale:
            assert place == known
            return
        if isinstance(place, QueueTimeout):
            assert isinstance(self.memory.places[request_id], Waiting)
        else:
            assert place.arrived_at_ms == known.arrived_at_ms
        if has_slots:
            each.ticket = replace(each.ticket, candidates=(Candidate(replica, 0, self.slots.get(replica, AUTO)),))
            if isinstance(known, Turn):
                # Its body is no longer in the memory of `authz`.
                each.ticket = replace(each.ticket, body_bytes=0)
            assert not isinstance(place, Turn) or place.replica == replica
        else:
            assert not isinstance(known, Turn) or place == known

    @rule(names=st.lists(st.sampled_from(REPLICAS), unique=True, min_size=1), seconds=st.sampled_from([1, 3, 10]))
    def suspend(self, names: list[str], seconds: int) -> None:
        self.each(lambda queue: queue.suspend(names, seconds))

    @rule(name=st.sampled_from(GIVEN), slots=st.sampled_from([0, 1, 1, 2, 2, 3]))
    def set_slots(self, name: str, slots: int) -> None:
        if slots < self.slots[name]:
            self.overfull.add(name)
        self.slots[name] = slots
        self.each(lambda queue: queue.set_slots({name: slots}))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def ended_requests_stay_ended(self, data: st.DataObject) -> None:
        if remembered := self._remembered():
            each = data.draw(st.sampled_from(remembered))
            assert self.each(lambda queue: queue.enter(each)) == Ended()
            assert self.each(lambda queue: queue.move(each.request_id, "a", 2)) == Ended()
            assert not self.each(lambda queue: queue.finish(each.request_id, 9))
            assert self.each(lambda queue: queue.poll([each.request_id])) == [None]

    @rule(seconds=st.sampled_from([0.001, 0.5, 0.5, 1, 1, 2, 2, 4.999, 5, 15]))
    def later(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @rule(seconds=st.sampled_from([4, 16]))
    def owners_poll_for_some_time(self, seconds: int) -> None:
        """Nothing expires, and no ticket is dropped."""
        for _ in range(seconds // 2):
            before = set(self.memory.places)
            self.each(lambda queue: queue.poll(sorted(self.memory.places)))
            assert set(self.memory.places) == before
            self.clock.forward(2)

    @rule(what=st.sampled_from(["nothing", "nothing", "long pause", "clock goes back", "loss"]))
    def disrupt(self, what: str) -> None:
        if what == "long pause":
            self.clock.forward(61)
        elif what == "clock goes back":
            self.clock.forward(-3)
        elif what == "loss":
            self._lose_everything()

    def _lose_everything(self) -> None:
        self.memory.lose_everything()
        if self.redis:
            self.loop.run_until_complete(self.redis.flushall())
        self.ended.clear()
        self.each(lambda queue: queue.set_slots(self.slots))

    def _one(self, data: st.DataObject) -> Alive:
        return self.alive[data.draw(st.sampled_from(sorted(self.alive)))]

    def _remembered(self) -> list[Ticket]:
        return [each for each, until_ms in self.ended.values() if until_ms > self.clock.now_ms]

    def _end(self, each: Alive) -> None:
        request_id = each.ticket.request_id
        assert request_id not in self.memory.places
        del self.alive[request_id]
        self.ended[request_id] = each.ticket, self.clock.now_ms + ENDED_MS

    @invariant()
    def the_status_is_right(self) -> None:
        status = self.each(lambda queue: queue.status())
        self._no_replica_runs_more_requests_than_it_has_slots(status)
        self._no_slot_is_free_while_a_ticket_waits_for_it(status)
        self._every_request_has_one_place_or_has_ended(status)

    def _no_replica_runs_more_requests_than_it_has_slots(self, status: QueueStatus) -> None:
        for name, replica in status.replicas.items():
            if replica.is_learnt and replica.slots < self.learnt:
                self.overfull.add(name)
            self.learnt = replica.slots if replica.is_learnt else self.learnt
            if replica.running <= replica.slots:
                self.overfull.discard(name)
            assert replica.running <= replica.slots + replica.is_learnt or name in self.overfull

    def _no_slot_is_free_while_a_ticket_waits_for_it(self, status: QueueStatus) -> None:
        if self.memory.is_up_to_date:
            for request_id, place in self.memory.places.items():
                if isinstance(place, Waiting):
                    for one in self.memory.usable(self.alive[request_id].ticket.candidates):
                        assert status.replicas[one.replica].running >= status.replicas[one.replica].slots

    def _every_request_has_one_place_or_has_ended(self, status: QueueStatus) -> None:
        running = sum(each.running for each in status.replicas.values())
        waiting = sum(each.waiting for each in status.tenants.values())
        assert running == sum(each.running for each in status.tenants.values())
        assert running + waiting == len(self.memory.places)
        assert set(self.memory.places) <= set(self.alive)


COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck))


def test_any_interleaving_keeps_the_invariants_in_memory() -> None:
    run_state_machine_as_test(QueueMachine, settings=settings(COMMON, max_examples=200, stateful_step_count=40))


def test_any_interleaving_keeps_the_invariants_in_redis_with_identical_answers(redis_url: str) -> None:
    machine = type("OnRedis", (QueueMachine,), {"redis_url": redis_url})
    run_state_machine_as_test(machine, settings=settings(COMMON, max_examples=60, stateful_step_count=40))
