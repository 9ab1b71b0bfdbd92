"""What every implementation of the queue promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gateway.queue.port import (
    Candidate,
    Ended,
    Place,
    Queue,
    QueueFull,
    QueueRules,
    QueueTimeout,
    ReplicaStatus,
    TenantStatus,
    Ticket,
    TicketStatus,
    Turn,
    Waiting,
)
from gateway.values import Priority
from tests.gateway.queue.builders import RULES, replicas, running, ticket
from tests.gateway.queue.conftest import Bench
from tests.gateway.quota.builders import NOON_MS


async def enter_all(queue: Queue, tickets: Sequence[Ticket]) -> list[Place]:
    return [await queue.enter(each) for each in tickets]


async def finish_in_turn(queue: Queue, tickets: Sequence[Ticket], tokens: int = 10) -> list[Ticket]:
    """Finishes each request that has a turn until none is left, and returns them in the order of their turns."""
    left, order = list(tickets), []
    while left:
        places = await queue.poll([each.request_id for each in left])
        [turn] = [each for each, place in zip(left, places, strict=True) if isinstance(place, Turn)]
        order.append(turn)
        left.remove(turn)
        assert await queue.finish(turn.request_id, tokens)
    return order


async def test_a_free_slot_is_taken_at_once_and_the_next_request_waits(bench: Bench) -> None:
    first, second = ticket(), ticket()
    assert await bench.queue.enter(first) == Turn("a", NOON_MS, 0)
    assert await bench.queue.enter(second) == Waiting(NOON_MS)
    bench.clock.forward(2)
    assert await bench.queue.finish(first.request_id, 5)
    assert await bench.queue.enter(second) == Turn("a", NOON_MS, 2000)
    assert await bench.queue.finish(second.request_id, 5)
    status = await bench.queue.status()
    assert status.replicas == {"a": ReplicaStatus(1, 0)}
    assert status.tenants == {}


async def test_entering_again_changes_nothing(bench: Bench) -> None:
    first, second = ticket(), ticket()
    for _ in range(3):
        assert await enter_all(bench.queue, [first, second]) == [Turn("a", NOON_MS, 0), Waiting(NOON_MS)]
    status = await bench.queue.status()
    assert status.tenants == {1: TenantStatus(1, 1, 10.0)}
    assert status.tickets == (TicketStatus(NOON_MS, 1, second.key_id, ("a",)),)


async def test_the_lowest_rank_is_taken_first_and_a_higher_one_before_waiting(bench: Bench) -> None:
    candidates = (Candidate("b", 1, 1), Candidate("a", 0, 1))
    places = await enter_all(bench.queue, [ticket(candidates=candidates) for _ in range(3)])
    assert places == [Turn("a", NOON_MS, 0), Turn("b", NOON_MS, 0), Waiting(NOON_MS)]


async def test_replicas_are_filled_evenly_in_proportion_to_their_slots(bench: Bench) -> None:
    candidates = (Candidate("a", 0, 4), Candidate("b", 0, 2))
    places = await enter_all(bench.queue, [ticket(candidates=candidates) for _ in range(6)])
    assert [place.replica for place in places if isinstance(place, Turn)] == ["a", "b", "a", "a", "b", "a"]


async def test_interactive_requests_come_before_batch_requests_until_these_are_promoted(bench: Bench) -> None:
    holder = ticket()
    batch = ticket(tenant=2, priority=Priority.BATCH)
    await enter_all(bench.queue, [holder, batch])
    bench.clock.forward(3)
    interactive = [ticket(tenant=3), ticket(tenant=3)]
    await enter_all(bench.queue, interactive)
    await bench.queue.finish(holder.request_id)
    assert isinstance(await bench.queue.enter(interactive[0]), Turn)
    for _ in range(4):
        bench.clock.forward(3)
        await bench.queue.poll([each.request_id for each in (batch, *interactive)])
    await bench.queue.finish(interactive[0].request_id)
    assert await bench.queue.enter(batch) == Turn("a", NOON_MS, 15_000)


async def test_the_tenant_with_the_fewest_weighted_tokens_is_next(bench: Bench) -> None:
    holder = ticket(tenant=9)
    tickets = [ticket(tenant=1) for _ in range(3)] + [ticket(tenant=2, weight=2) for _ in range(5)]
    await enter_all(bench.queue, [holder, *tickets])
    await bench.queue.finish(holder.request_id)
    order = [each.tenant_id for each in await finish_in_turn(bench.queue, tickets, tokens=100)]
    assert order == [1, 2, 2, 1, 2, 2, 1, 2]


async def test_the_keys_of_a_tenant_share_its_turns(bench: Bench) -> None:
    holder = ticket(tenant=9)
    tickets = [ticket(key=11) for _ in range(3)] + [ticket(key=12) for _ in range(2)]
    await enter_all(bench.queue, [holder, *tickets])
    await bench.queue.finish(holder.request_id)
    assert [each.key_id for each in await finish_in_turn(bench.queue, tickets)] == [11, 12, 11, 12, 11]


@pytest.mark.parametrize("other", [ticket(tenant=2), ticket(key=12)], ids=["tenant", "key"])
async def test_of_those_with_equal_tokens_the_one_that_got_the_latest_slot_is_last(bench: Bench, other: Ticket) -> None:
    holder, earlier = ticket(), ticket()
    await enter_all(bench.queue, [holder, earlier])
    bench.clock.forward(1)
    assert isinstance(await bench.queue.enter(other), Waiting)
    await bench.queue.finish(holder.request_id, holder.input_tokens)
    assert await finish_in_turn(bench.queue, [earlier, other]) == [other, earlier]


@pytest.mark.parametrize("tokens", [10, 500])
async def test_a_newcomer_waits_for_one_running_answer(bench: Bench, tokens: int) -> None:
    """Also when the running answer has exactly as many tokens as were charged when it began."""
    busy = [ticket(tenant=1) for _ in range(6)]
    await enter_all(bench.queue, busy)
    newcomer = ticket(tenant=2)
    assert await bench.queue.enter(newcomer) == Waiting(NOON_MS)
    await bench.queue.finish(busy[0].request_id, tokens)
    assert isinstance(await bench.queue.enter(newcomer), Turn)


async def test_an_idle_tenant_gains_no_credit(bench: Bench) -> None:
    busy = [ticket(tenant=1) for _ in range(6)]
    await enter_all(bench.queue, busy)
    for each in busy[:3]:
        await bench.queue.finish(each.request_id, 1000)
    returning = [ticket(tenant=2) for _ in range(3)]
    await enter_all(bench.queue, returning)
    order = await finish_in_turn(bench.queue, [*busy[3:], *returning], tokens=1000)
    assert [each.tenant_id for each in order] == [1, 2, 1, 2, 1, 2]


async def test_produced_tokens_are_charged_while_the_request_runs_and_corrected_at_its_end(bench: Bench) -> None:
    first, other = ticket(tokens=10), ticket(tenant=2, candidates=replicas("b"))
    turn, _ = await enter_all(bench.queue, [first, other])
    assert isinstance(turn, Turn)

    async def tokens() -> float:
        return (await bench.queue.status()).tenants[1].virtual_tokens

    assert await tokens() == 10
    assert await bench.queue.renew([running(first, turn, 60)]) == [True]
    assert await tokens() == 60
    waiting = ticket(candidates=replicas("b"))
    await bench.queue.enter(waiting)
    assert await bench.queue.finish(first.request_id, 25)
    assert await tokens() == 25


async def test_a_request_that_ends_in_the_queue_costs_nothing_and_one_on_its_turn_costs_a_token(bench: Bench) -> None:
    holder, waiting, cancelled = ticket(tenant=2), ticket(tokens=500), ticket()
    await enter_all(bench.queue, [holder, waiting, cancelled])
    assert await bench.queue.finish(cancelled.request_id)
    before = (await bench.queue.status()).tenants[1].virtual_tokens
    await bench.queue.finish(holder.request_id)
    # Its budget is used up by now, for example.
    keeper = ticket(candidates=replicas("b"))
    await bench.queue.enter(keeper)
    assert await bench.queue.finish(waiting.request_id)
    assert (await bench.queue.status()).tenants[1].virtual_tokens == before + 1 + 10


async def test_a_finished_request_takes_no_slot_when_its_call_arrives_late(bench: Bench) -> None:
    cancelled = ticket()
    assert not await bench.queue.finish(cancelled.request_id)
    assert await bench.queue.enter(cancelled) == Ended()
    assert await bench.queue.move(cancelled.request_id, "a", 2) == Ended()
    assert await bench.queue.renew([running(cancelled, Turn("a", NOON_MS, 0), 5)]) == [False]
    assert not await bench.queue.finish(cancelled.request_id)
    assert isinstance(await bench.queue.enter(ticket()), Turn)


async def test_tickets_of_a_tenant_are_bounded_in_number_and_bytes(bench: Bench) -> None:
    await enter_all(bench.queue, [ticket() for _ in range(1 + RULES.tickets_max)])
    assert await bench.queue.enter(ticket()) == QueueFull(5)
    large = ticket(tenant=2, body_bytes=901)
    assert await enter_all(bench.queue, [ticket(tenant=2), large]) == [Waiting(NOON_MS), QueueFull(6)]
    assert await bench.queue.enter(ticket(tenant=2, body_bytes=900)) == Waiting(NOON_MS)
    assert await bench.queue.enter(ticket(candidates=replicas("b"))) == Turn("b", NOON_MS, 0)


async def test_a_ticket_times_out(bench: Bench) -> None:
    holder, waiting = ticket(), ticket()
    turn, _ = await enter_all(bench.queue, [holder, waiting])
    assert isinstance(turn, Turn)
    for _ in range(10):
        bench.clock.forward(3)
        await bench.queue.renew([running(holder, turn, 1)])
        assert await bench.queue.poll([waiting.request_id]) == [Waiting(NOON_MS)]
    assert await bench.queue.enter(waiting) == QueueTimeout(1)
    assert await bench.queue.enter(waiting) == Ended()
    assert await bench.queue.poll([waiting.request_id]) == [None]


async def test_the_slots_and_tickets_of_a_dead_process_are_free_when_their_leases_expire(bench: Bench) -> None:
    dead, dead_ticket, alive = ticket(), ticket(), ticket()
    turn, *_ = await enter_all(bench.queue, [dead, dead_ticket, alive])
    assert isinstance(turn, Turn)
    await bench.queue.renew([running(dead, turn, 1)])
    for _ in range(4):
        bench.clock.forward(3)
        assert await bench.queue.poll([alive.request_id]) == [Waiting(NOON_MS)]
    bench.clock.forward(3)
    assert await bench.queue.poll([alive.request_id]) == [Turn("a", NOON_MS, 15_000)]
    assert await bench.queue.poll([dead.request_id, dead_ticket.request_id]) == [None, None]


async def test_a_poll_does_not_shorten_the_lease_of_a_running_request(bench: Bench) -> None:
    request = ticket()
    turn = await bench.queue.enter(request)
    assert isinstance(turn, Turn)
    await bench.queue.renew([running(request, turn, 1)])
    await bench.queue.poll([request.request_id])
    bench.clock.forward(14)
    assert await bench.queue.enter(ticket(tenant=2)) == Waiting(bench.clock())


async def test_an_unused_turn_expires(bench: Bench) -> None:
    holder, dead, alive = ticket(), ticket(), ticket(tenant=2, priority=Priority.BATCH)
    await enter_all(bench.queue, [holder, dead, alive])
    await bench.queue.finish(holder.request_id)
    for _ in range(2):
        bench.clock.forward(2.5)
        await bench.queue.poll([alive.request_id])
    assert await bench.queue.enter(alive) == Turn("a", NOON_MS, 5000)


async def test_a_request_moves_to_a_free_slot_and_its_old_slot_is_granted_in_the_same_step(bench: Bench) -> None:
    await bench.queue.set_slots({"b": 1})
    first, second = ticket(tokens=10), ticket()
    await enter_all(bench.queue, [first, second])
    assert await bench.queue.move(first.request_id, "b", 2) == Turn("b", NOON_MS, 0)
    assert await bench.queue.enter(second) == Turn("a", NOON_MS, 0)
    assert (await bench.queue.status()).tenants == {1: TenantStatus(2, 0, 20.0)}
    assert await bench.queue.move(first.request_id, "b", 2) == Turn("b", NOON_MS, 0)
    assert (await bench.queue.status()).replicas == {"a": ReplicaStatus(1, 1), "b": ReplicaStatus(1, 1)}


async def test_a_request_that_moves_waits_from_its_arrival_on_and_is_charged_once(bench: Bench) -> None:
    first, second = ticket(), ticket(candidates=replicas("b"))
    await enter_all(bench.queue, [first, second])
    bench.clock.forward(1)
    later = ticket(candidates=replicas("b"))
    assert await enter_all(bench.queue, [later]) == [Waiting(NOON_MS + 1000)]
    for _ in range(2):
        assert await bench.queue.move(first.request_id, "b", 2) == Waiting(NOON_MS)
    assert (await bench.queue.status()).replicas["a"].running == 0
    await bench.queue.finish(second.request_id, 10)
    assert await bench.queue.move(first.request_id, "b", 2) == Turn("b", NOON_MS, 0)
    assert (await bench.queue.status()).tenants[1].virtual_tokens == 20


async def test_a_move_of_an_earlier_attempt_changes_nothing(bench: Bench) -> None:
    await bench.queue.set_slots({"b": 1, "c": 1})
    first, holder = ticket(), ticket(candidates=replicas("c"))
    await enter_all(bench.queue, [first, holder])
    assert await bench.queue.move(first.request_id, "c", 3) == Waiting(NOON_MS)
    assert await bench.queue.move(first.request_id, "b", 2) == Waiting(NOON_MS)
    await bench.queue.finish(holder.request_id)
    assert await bench.queue.move(first.request_id, "b", 2) == Turn("c", NOON_MS, 0)
    assert (await bench.queue.status()).replicas["b"].running == 0
    assert await bench.queue.move(first.request_id, "b", 4) == Turn("b", NOON_MS, 0)


@pytest.mark.parametrize("replica", ["a", "other"])
async def test_an_attempt_that_stays_where_the_request_has_its_slot_is_later_than_earlier_moves(
    bench: Bench, replica: str
) -> None:
    await bench.queue.set_slots({"b": 1})
    first = ticket()
    await enter_all(bench.queue, [first])
    assert await bench.queue.move(first.request_id, replica, 3) == Turn("a", NOON_MS, 0)
    assert await bench.queue.move(first.request_id, "b", 2) == Turn("a", NOON_MS, 0)


@pytest.mark.parametrize("answered_at", ["a", "b"])
async def test_a_request_that_is_answered_does_not_move(bench: Bench, answered_at: str) -> None:
    """The attempt that answers did not move its slot, because no meter or store replied to it."""
    await bench.queue.set_slots({"b": 1, "c": 1})
    first = ticket()
    await enter_all(bench.queue, [first])
    assert await bench.queue.renew([running(first, Turn(answered_at, NOON_MS, 0), 10)]) == [True]
    assert await bench.queue.move(first.request_id, "c", 2) == Turn(answered_at, NOON_MS, 0)
    bench.lose()
    assert await bench.queue.renew([running(first, Turn(answered_at, NOON_MS, 0), 10)]) == [True]
    await bench.queue.set_slots({"c": 1})
    assert isinstance(await bench.queue.move(first.request_id, "c", 2), Turn)
    assert (await bench.queue.status()).replicas["c"].running == 0


async def test_all_waits_of_a_request_together_last_at_most_as_long_as_the_longest_wait(bench: Bench) -> None:
    holder, other = ticket(), ticket(candidates=replicas("b"))
    first = ticket()
    await enter_all(bench.queue, [holder, other, first])
    for _ in range(5):
        bench.clock.forward(4)
        await bench.queue.poll([holder.request_id, other.request_id, first.request_id])
    await bench.queue.finish(holder.request_id)
    assert await bench.queue.enter(first) == Turn("a", NOON_MS, 20_000)
    # The time of its first attempt is no wait.
    for _ in range(3):
        bench.clock.forward(4)
        await bench.queue.poll([other.request_id, first.request_id])
    for _ in range(2):
        assert await bench.queue.move(first.request_id, "b", 2) == Waiting(NOON_MS)
        bench.clock.forward(4)
        await bench.queue.poll([other.request_id, first.request_id])
    bench.clock.forward(1.999)
    assert await bench.queue.move(first.request_id, "b", 2) == Waiting(NOON_MS)
    bench.clock.forward(0.001)
    timed_out = await bench.queue.move(first.request_id, "b", 2)
    assert isinstance(timed_out, QueueTimeout)
    assert timed_out.retry_after_s >= 1
    assert await bench.queue.move(first.request_id, "b", 2) == timed_out
    assert await bench.queue.finish(first.request_id)
    assert (await bench.queue.status()).tickets == ()


async def test_a_request_that_has_no_time_left_moves_to_a_free_slot(bench: Bench) -> None:
    await bench.queue.set_slots({"b": 1, "c": 1})
    holder, first = ticket(), ticket()
    await enter_all(bench.queue, [holder, first])
    for _ in range(7):
        bench.clock.forward(4)
        await bench.queue.poll([holder.request_id, first.request_id])
    await bench.queue.finish(holder.request_id)
    bench.clock.forward(1.999)
    assert isinstance(await bench.queue.enter(first), Turn)
    assert await bench.queue.move(first.request_id, "b", 2) == Turn("b", NOON_MS, 28_000)


async def test_a_request_that_moves_is_renewed_by_a_meter_that_has_the_replica_of_the_grant(bench: Bench) -> None:
    await bench.queue.set_slots({"b": 1})
    first = ticket()
    (granted,) = await enter_all(bench.queue, [first])
    assert isinstance(granted, Turn)
    await bench.queue.move(first.request_id, "b", 2)
    assert await bench.queue.renew([replace(running(first, granted, 10), answers=False)]) == [True]
    assert (await bench.queue.status()).replicas == {"a": ReplicaStatus(1, 0), "b": ReplicaStatus(1, 1)}
    bench.lose()
    assert await bench.queue.renew([replace(running(first, granted, 10), answers=False)]) == [True]
    assert (await bench.queue.status()).replicas["a"].running == 1


async def test_a_request_that_moved_keeps_its_slot_until_a_renewal_of_a_running_request_is_due(bench: Bench) -> None:
    await bench.queue.set_slots({"b": 1})
    first = ticket()
    await enter_all(bench.queue, [first])
    await bench.queue.move(first.request_id, "b", 2)
    bench.clock.forward(14)
    assert await bench.queue.poll([]) == []
    assert (await bench.queue.status()).replicas["b"].running == 1
    bench.clock.forward(2)
    await enter_all(bench.queue, [ticket()])
    assert (await bench.queue.status()).replicas["b"].running == 0


async def test_a_request_stays_where_it_is_when_it_is_tried_at_a_replica_without_known_slots(bench: Bench) -> None:
    first = ticket()
    await enter_all(bench.queue, [first])
    assert await bench.queue.move(first.request_id, "other", 2) == Turn("a", NOON_MS, 0)


async def test_a_request_that_the_store_does_not_know_does_not_move(bench: Bench) -> None:
    await bench.queue.set_slots({"b": 1})
    assert await bench.queue.move("unknown", "b", 2) == Ended()
    assert (await bench.queue.status()).replicas == {"b": ReplicaStatus(1, 0)}


async def test_the_slot_of_a_request_follows_it_to_the_replica_where_it_runs(bench: Bench) -> None:
    first, second, third = ticket(), ticket(), ticket(candidates=replicas("b"))
    await enter_all(bench.queue, [first, second, third])
    assert await bench.queue.renew([running(first, Turn("b", NOON_MS, 0), 10)]) == [True]
    assert await bench.queue.enter(second) == Turn("a", NOON_MS, 0)
    assert (await bench.queue.status()).replicas == {"a": ReplicaStatus(1, 1), "b": ReplicaStatus(1, 2)}


async def test_a_request_that_runs_before_its_turn_has_a_slot_when_it_is_answered(bench: Bench) -> None:
    """No meter or store replied to its attempt, which went on without a slot."""
    holder, first, second = ticket(candidates=replicas("b")), ticket(), ticket(candidates=replicas("b"))
    await enter_all(bench.queue, [holder, first])
    assert await bench.queue.move(first.request_id, "b", 2) == Waiting(NOON_MS)
    assert await bench.queue.enter(second) == Waiting(NOON_MS)
    assert await bench.queue.renew([replace(running(first, Turn("a", NOON_MS, 0), 0), answers=False)]) == [True]
    assert (await bench.queue.status()).replicas == {"a": ReplicaStatus(1, 0), "b": ReplicaStatus(1, 1)}
    assert await bench.queue.renew([running(first, Turn("b", NOON_MS, 0), 20)]) == [True]
    assert (await bench.queue.status()).replicas == {"a": ReplicaStatus(1, 0), "b": ReplicaStatus(1, 2)}
    assert (await bench.queue.status()).tenants == {1: TenantStatus(2, 1, 30)}
    assert await bench.queue.finish(holder.request_id, 10)
    assert await bench.queue.enter(second) == Waiting(NOON_MS)
    assert await bench.queue.finish(first.request_id, 20)
    assert await bench.queue.enter(second) == Turn("b", NOON_MS, 0)


async def test_a_reserved_token_that_was_not_used_is_credited_after_a_loss_too(bench: Bench) -> None:
    first = ticket()
    (granted,) = await enter_all(bench.queue, [first])
    assert isinstance(granted, Turn)
    bench.lose()
    for tokens in (2, 1):
        assert await bench.queue.renew([running(first, granted, tokens)]) == [True]
    await enter_all(bench.queue, [ticket()])
    assert (await bench.queue.status()).tenants[1].virtual_tokens == -1


async def test_a_suspended_replica_gets_no_request_and_its_tickets_get_the_slots_of_others(bench: Bench) -> None:
    both = replicas("a", "b")
    await bench.queue.set_slots({"a": 1, "b": 1})
    await bench.queue.suspend(["a"], 3)
    first, second = ticket(candidates=both), ticket(candidates=both)
    assert await enter_all(bench.queue, [first, second]) == [Turn("b", NOON_MS, 0), Waiting(NOON_MS)]
    await bench.queue.finish(first.request_id)
    assert await bench.queue.enter(second) == Turn("b", NOON_MS, 0)
    third = ticket(candidates=both)
    await bench.queue.enter(third)
    bench.clock.forward(3)
    assert await bench.queue.poll([third.request_id]) == [Turn("a", NOON_MS, 3000)]


async def test_a_request_whose_candidates_are_all_suspended_gets_a_slot(bench: Bench) -> None:
    await bench.queue.set_slots({"a": 1, "b": 1})
    holder, waits = ticket(candidates=replicas("a")), ticket(candidates=replicas("a", "b"))
    await bench.queue.suspend(["b"], 3)
    assert await enter_all(bench.queue, [holder, waits]) == [Turn("a", NOON_MS, 0), Waiting(NOON_MS)]
    await bench.queue.suspend(["a"], 3)
    assert await bench.queue.enter(waits) == Turn("b", NOON_MS, 0)


async def test_the_number_of_slots_can_be_changed(bench: Bench) -> None:
    tickets = [ticket(candidates=replicas("a", slots=1)) for _ in range(4)]
    await enter_all(bench.queue, tickets)
    await bench.queue.set_slots({"a": 3})
    places = await bench.queue.poll([each.request_id for each in tickets])
    assert [type(place) for place in places] == [Turn, Turn, Turn, Waiting]
    await bench.queue.set_slots({"a": 0})
    for each in tickets[:3]:
        await bench.queue.finish(each.request_id)
    assert await bench.queue.enter(tickets[3]) == Waiting(NOON_MS)


class TestAfterALoss:
    @pytest.fixture
    def rules(self) -> QueueRules:
        return QueueRules(wait_max_s=30, ticket_lease_s=5, slot_lease_s=15, restore_s=1.5)

    async def test_running_requests_keep_their_slots_and_tickets_their_order(self, bench: Bench) -> None:
        await bench.queue.set_slots({"a": 1})
        bench.clock.forward(1.5)
        first, second, third = ticket(), ticket(), ticket()
        turn = await bench.queue.enter(first)
        assert turn == Turn("a", NOON_MS + 1500, 0)
        assert isinstance(turn, Turn)
        waiting = []
        for each in (second, third):
            bench.clock.forward(0.1)
            place = await bench.queue.enter(each)
            assert isinstance(place, Waiting)
            waiting.append(ticket(request_id=each.request_id, arrived_at_ms=place.arrived_at_ms))
        bench.lose()
        assert await bench.queue.poll([second.request_id]) == [None]
        fresh = ticket()
        assert await bench.queue.enter(fresh) == Waiting(bench.clock())
        for again in reversed(waiting):
            assert await bench.queue.enter(again) == Waiting(again.arrived_at_ms or 0)
        assert await bench.queue.renew([running(first, turn, 50)]) == [True]
        bench.clock.forward(1.5)
        assert await bench.queue.poll([second.request_id]) == [Waiting(waiting[0].arrived_at_ms or 0)]
        tickets = [second, third, fresh]
        await bench.queue.finish(first.request_id, 60)
        assert await finish_in_turn(bench.queue, tickets) == tickets


class TestOneTicketPerTenant:
    @pytest.fixture
    def rules(self) -> QueueRules:
        return QueueRules(tickets_max=1, restore_s=0)

    async def test_a_ticket_that_the_store_lost_is_not_bounded_again(self, bench: Bench) -> None:
        holder, waiting, fresh = ticket(), ticket(), ticket()
        assert await enter_all(bench.queue, [holder, waiting]) == [Turn("a", NOON_MS, 0), Waiting(NOON_MS)]
        bench.lose()
        await enter_all(bench.queue, [holder, fresh])
        again = ticket(request_id=waiting.request_id, arrived_at_ms=NOON_MS)
        assert await bench.queue.enter(again) == Waiting(NOON_MS)
        assert isinstance(await bench.queue.enter(ticket()), QueueFull)

    async def test_a_request_that_moves_is_not_bounded(self, bench: Bench) -> None:
        first, second, waiting = ticket(), ticket(candidates=replicas("b")), ticket()
        await enter_all(bench.queue, [first, second, waiting])
        assert await bench.queue.move(second.request_id, "a", 2) == Waiting(NOON_MS)


async def test_a_suspended_replica_is_reported_as_long_as_it_is(bench: Bench) -> None:
    await bench.queue.set_slots({"a": 1, "b": 1})
    await bench.queue.suspend(["a"], 3)
    for _ in range(3):
        suspended = {name for name, each in (await bench.queue.status()).replicas.items() if each.is_suspended}
        assert suspended == {"a"}
        bench.clock.forward(1)
    assert not any(each.is_suspended for each in (await bench.queue.status()).replicas.values())
    bench.clock.forward(3)
    assert (await bench.queue.status()).replicas == {"a": ReplicaStatus(1, 0), "b": ReplicaStatus(1, 0)}
