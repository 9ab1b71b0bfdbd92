"""One call admits a request and takes a slot for it, or parks it; one call ends its hold and passes the slot on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.errors import Code
from gateway.queue.port import Candidate, Ticket
from gateway.queue.redis.queue import RedisQueue, queue_rules
from gateway.quota.port import Admission, Hold, Parked, Progress, ReservationDenied, Reserved
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Budgets, Limits, Outcome, Period, Priority
from tests.gateway.quota.builders import WIDE, Clock, Ledger, asks, entry, hold_of
from tests.redis_commands import counted_calls, script_calls

TENANT = 1

Admit = Callable[[Admission], Awaitable[Reserved | Parked | ReservationDenied]]


@dataclass
class Bench:
    """A quota with a queue for one replica of one slot, and the queue itself."""

    quota: RedisQuota
    queue: RedisQueue
    clock: Clock
    client: Any

    async def enter(
        self, admission: Admission, parked: Parked | None = None, **fields: Any
    ) -> Reserved | Parked | ReservationDenied:
        """Admits a request, by default an interactive one of weight 1."""
        return await self.quota.enter(admission, replace(ticket(admission), **fields), parked)

    async def running(self) -> int:
        """The slots in use."""
        status = await self.queue.status()
        return sum(each.running for each in status.replicas.values())

    async def waiting(self) -> int:
        """The number of tickets."""
        return len((await self.queue.status()).tickets)


def ticket(admission: Admission) -> Ticket:
    """The ticket of a request that may use the only replica."""
    candidates = (Candidate("backend:a", 0, 1),)
    return Ticket(
        admission.request_id,
        admission.tenant_id,
        admission.key_id,
        1,
        Priority.INTERACTIVE,
        0,
        100,
        candidates,
        "worker",
    )


def parked(answer: Reserved | Parked | ReservationDenied) -> Parked:
    """The answer to a request that waits."""
    assert isinstance(answer, Parked), answer
    return answer


def reserved(answer: Reserved | Parked | ReservationDenied) -> Reserved:
    """The answer to a request that has a slot."""
    assert isinstance(answer, Reserved), answer
    return answer


def code(answer: Reserved | Parked | ReservationDenied) -> Code:
    """The code of a denial."""
    assert isinstance(answer, ReservationDenied), answer
    return answer.code


@pytest.fixture
async def bench(redis_client: Any, settings: Settings) -> AsyncIterator[Bench]:
    redis_client.flushall()
    queued = settings.model_copy(update={"queue_max_wait_s": 30.0, "queue_max_per_tenant": 2})
    connection = connect(queued)
    clock = Clock()
    quota = RedisQuota(connection, queued, Ledger().load, clock=clock, restore_s=0)
    queue = RedisQueue(connection, queued.redis_timeout_s, queue_rules(queued), clock)
    # The time in which running requests are re-established after a loss of data.
    await queue.poll([])
    await queue.status()
    await queue.set_slots({"backend:a": 1})
    clock.forward(2)
    yield Bench(quota, queue, clock, redis_client)
    await quota.aclose()
    await connection.aclose()


def hold(admission: Admission, answer: Reserved) -> Hold:
    """The hold of a request that has a slot."""
    return hold_of(admission, answer)


async def test_a_free_slot_costs_twelve_commands(bench: Bench, settings: Settings) -> None:
    connection = connect(settings)
    unqueued = settings.model_copy(update={"queue_max_wait_s": 0.0})
    without_queue = RedisQuota(connection, unqueued, Ledger().load, clock=bench.clock, restore_s=0)

    async def commands(quota: RedisQuota, admit: Admit) -> int:
        """The commands of the second of two requests: the first one may rebuild the counters and send the scripts."""
        for _ in range(2):
            with counted_calls(bench.client) as calls:
                admission = asks()
                await quota.settle(entry(hold(admission, reserved(await admit(admission))), output_tokens=5))
        return calls.total()

    with_queue = await commands(bench.quota, bench.enter)
    assert with_queue - await commands(without_queue, without_queue.admit) == 12
    await without_queue.aclose()
    await connection.aclose()


async def test_a_free_slot_is_taken_in_the_call_that_reserves(bench: Bench) -> None:
    admission = asks()
    answer = reserved(await bench.enter(admission))
    assert (answer.replica, answer.queued_ms, answer.output_cap) == ("backend:a", 0, 90)
    assert await bench.running() == 1
    assert '"replica":"backend:a","queued_ms":0' in (await _held(bench, admission)).grant_json


async def test_a_parked_request_counts_as_a_request_and_holds_no_tokens(bench: Bench) -> None:
    await bench.enter(asks())
    parked(await bench.enter(asks(tenant_limits=replace(WIDE, concurrent=2))))
    counters = await bench.quota.counters(TENANT)
    assert counters is not None
    assert counters.in_flight[None] == 2
    assert counters.held[None, Period.DAY] == 100
    assert code(await bench.enter(asks(tenant_limits=replace(WIDE, concurrent=2)))) is Code.CONCURRENCY_EXCEEDED


async def test_settling_passes_the_slot_on_and_its_turn_reserves_the_tokens(bench: Bench) -> None:
    first, second = asks(), asks()
    running = hold(first, reserved(await bench.enter(first)))
    waits = parked(await bench.enter(second))
    bench.clock.forward(3)
    assert await bench.quota.poll([second.request_id]) == [False]
    assert await bench.quota.settle(entry(running, output_tokens=5))
    assert await bench.quota.poll([second.request_id]) == [True]
    turn = reserved(await bench.enter(second, waits))
    assert (turn.replica, turn.queued_ms) == ("backend:a", 3000)
    counters = await bench.quota.counters(TENANT)
    assert counters is not None
    assert (counters.in_flight[None], counters.held[None, Period.DAY]) == (1, 100)
    assert turn.limit_status.requests_remaining == WIDE.rpm - 2
    await bench.quota.settle(entry(hold(second, turn)))
    assert await bench.running() == 0
    assert await bench.quota.counters(TENANT) is not None


async def test_a_repeated_call_for_a_turn_changes_nothing(bench: Bench) -> None:
    first, second = asks(), asks()
    running = hold(first, reserved(await bench.enter(first)))
    waits = parked(await bench.enter(second))
    await bench.quota.settle(entry(running))
    turn = reserved(await bench.enter(second, waits))
    assert await bench.enter(second, waits) == turn
    assert await bench.running() == 1


async def test_a_budget_that_is_used_up_meanwhile_denies_the_turn_and_passes_the_slot_on(bench: Bench) -> None:
    budget = Budgets(day=150)
    first = asks(tenant_budgets=Budgets(day=1000))
    poor, other = asks(tenant_budgets=budget), asks(tenant=2)
    running = hold(first, reserved(await bench.enter(first)))
    waits = parked(await bench.enter(poor))
    bench.clock.forward(1)
    others = parked(await bench.enter(other))
    await bench.quota.settle(entry(running, output_tokens=200))
    # The tenant that has used less comes first.
    turn = reserved(await bench.enter(other, others))
    await bench.quota.settle(entry(hold(other, turn)))
    assert code(await bench.enter(poor, waits)) is Code.BUDGET_EXHAUSTED
    assert (await bench.running(), await bench.waiting()) == (0, 0)


async def test_limits_are_checked_before_a_place_is_taken(bench: Bench) -> None:
    await bench.enter(asks())
    assert code(await bench.enter(asks(tenant_budgets=Budgets(day=5)))) is Code.BUDGET_EXHAUSTED
    assert await bench.waiting() == 0


async def test_a_full_queue_denies_at_once_and_a_wait_that_is_too_long_ends(bench: Bench) -> None:
    first = asks()
    running = hold(first, reserved(await bench.enter(first)))
    admissions = [asks() for _ in range(3)]
    waits = parked(await bench.enter(admissions[0]))
    parked(await bench.enter(admissions[1]))
    full = await bench.enter(admissions[2])
    assert isinstance(full, ReservationDenied)
    assert (full.code, full.retry_after_s) == (Code.QUEUE_FULL, 2)
    for _ in range(8):
        bench.clock.forward(4)
        await bench.quota.renew_all([(running, Progress(0, 1, 0, "backend:a"))])
        await bench.quota.poll([admission.request_id for admission in admissions[:2]])
    assert code(await bench.enter(admissions[0], waits)) is Code.QUEUE_TIMEOUT


async def test_a_caller_that_leaves_frees_its_place_and_has_one_row(bench: Bench) -> None:
    first, second = asks(), asks()
    await bench.enter(first)
    waits = parked(await bench.enter(second))
    gone = entry(Hold(second.request_id, 1, 11, waits.admitted_at_ms, 0, 0, ""), outcome=Outcome.CLIENT_GONE)
    assert await bench.quota.settle(gone)
    assert not await bench.quota.settle(gone)
    assert await bench.waiting() == 0
    counters = await bench.quota.counters(TENANT)
    assert counters is not None
    assert counters.in_flight[None] == 1


async def test_callers_that_leave_free_their_places_in_one_call_and_their_rows_follow(bench: Bench) -> None:
    first, waiting, granted, stays = asks(), asks(), asks(tenant=2), asks(tenant=3)
    running = hold(first, reserved(await bench.enter(first)))
    places = {each.request_id: parked(await bench.enter(each)) for each in (waiting, granted, stays)}
    await bench.quota.settle(entry(running))
    assert await bench.quota.poll([granted.request_id, waiting.request_id]) == [True, False]
    with counted_calls(bench.client) as calls:
        await bench.quota.leave([granted.request_id, waiting.request_id, "unknown"])
    assert script_calls(calls) == 1
    assert (await bench.running(), await bench.waiting()) == (1, 0)
    assert await bench.quota.poll([stays.request_id]) == [True]
    for each in (granted, waiting):
        place = places[each.request_id]
        gone = Hold(each.request_id, each.tenant_id, each.key_id, place.admitted_at_ms, 0, 0, "")
        assert await bench.quota.settle(entry(gone, outcome=Outcome.CLIENT_GONE))
    assert (await bench.running(), await bench.waiting()) == (1, 0)
    assert (await bench.quota.backlog()).events == 3


async def test_a_slot_whose_request_reaches_no_meter_is_free_after_its_lease(bench: Bench) -> None:
    first, second = asks(), asks()
    await bench.enter(first)
    parked(await bench.enter(second))
    bench.clock.forward(4)
    assert await bench.quota.poll([second.request_id]) == [False]
    bench.clock.forward(2)
    assert await bench.quota.poll([second.request_id]) == [True]


async def test_renewals_extend_the_slot_and_move_it_to_the_replica_that_answers(bench: Bench) -> None:
    first = asks()
    running = hold(first, reserved(await bench.enter(first)))
    bench.clock.forward(3)
    assert await bench.quota.renew_all([(running, Progress(0, 7, 0, "backend:a"))]) == [True]
    bench.clock.forward(10)
    assert await bench.quota.renew_all([(running, Progress(0, 9, 0, "backend:b"))]) == [True]
    replicas = (await bench.queue.status()).replicas
    assert (replicas["backend:a"].running, replicas["backend:b"].running) == (0, 1)
    (tenant,) = (await bench.queue.status()).tenants.values()
    assert tenant.virtual_tokens == running.input_tokens + 9


async def test_a_denial_of_a_parked_request_gives_its_request_back(bench: Bench) -> None:
    limits = Limits(rpm=2, tpm=10_000, concurrent=10)
    await bench.enter(asks(tenant_limits=limits, limits=limits))
    second = asks(tenant_limits=limits, limits=limits)
    parked(await bench.enter(second))
    denied = entry(Hold(second.request_id, 1, 11, bench.clock.now_ms, 0, 0, ""), outcome=Outcome.DENIED)
    await bench.quota.record(denied)
    assert await bench.waiting() == 0
    parked(await bench.enter(asks(tenant_limits=limits, limits=limits)))


async def test_a_changed_number_of_slots_takes_effect_with_the_next_request(bench: Bench) -> None:
    await bench.enter(asks())
    second, third = asks(), asks()
    waits = parked(await bench.enter(second))
    reserved(await bench.enter(third, candidates=(Candidate("backend:a", 0, 3),)))
    assert reserved(await bench.enter(second, waits)).replica == "backend:a"
    assert await bench.running() == 3


async def _held(bench: Bench, admission: Admission) -> Hold:
    found = await bench.quota.held(admission.request_id)
    assert found is not None
    return found


async def test_a_request_that_waits_gets_a_slot_after_redis_has_lost_its_data(bench: Bench) -> None:
    await bench.enter(asks())
    admission = asks()
    waits = parked(await bench.enter(admission))
    bench.client.flushall()
    waits = parked(await bench.enter(admission, waits))
    # No slot is granted while running requests may be re-established.
    bench.clock.forward(2)
    assert reserved(await bench.enter(admission, waits)).replica == "backend:a"


async def test_a_running_request_has_its_slot_again_after_redis_has_lost_its_data(bench: Bench) -> None:
    first, second = asks(), asks()
    running = hold(first, reserved(await bench.enter(first)))
    waits = parked(await bench.enter(second))
    bench.client.flushall()
    assert await bench.quota.renew_all([(running, Progress(0, 7, 0, "backend:a"))]) == [True]
    assert await bench.running() == 1
    waits = parked(await bench.enter(second, waits))
    bench.clock.forward(2)
    waits = parked(await bench.enter(second, waits))
    assert await bench.quota.settle(entry(running))
    assert reserved(await bench.enter(second, waits)).replica == "backend:a"
