"""The shares of tenants over ten virtual minutes, and the bound that the virtual token counter gives."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queue.port import QueueRules, Turn
from gateway.values import Priority
from tests.gateway.queue.builders import replicas, ticket
from tests.gateway.queue.conftest import Bench
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.queue.simulation import TOKEN_MS, Load, Simulation, jain_index
from tests.gateway.quota.builders import Clock

TEN_MINUTES_S = 600
PATIENT = QueueRules(wait_max_s=3600, tickets_max=64, restore_s=0)


@pytest.fixture
def rules() -> QueueRules:
    """No ticket times out."""
    return PATIENT


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (5, 3, 1, 1, 1)], ids=lambda weights: ":".join(map(str, weights)))
async def test_tokens_over_ten_minutes_are_in_proportion_to_the_weights(
    bench: Bench, slots: int, weights: tuple[int, ...]
) -> None:
    """The first tenant has long answers, the others short ones."""
    loads = [
        Load(tenant, weight, (50, 200) if tenant == 1 else (1, 100)) for tenant, weight in enumerate(weights, start=1)
    ]
    simulation = Simulation(bench.queue, bench.clock, loads, slots)
    busy = await simulation.run(TEN_MINUTES_S)
    shares = [simulation.tokens[load.tenant] / load.weight for load in loads]
    assert min(shares) >= 0.95 * max(shares), shares
    assert jain_index(shares) >= 0.999
    assert busy >= 0.999


@pytest.mark.parametrize("arrives_s", [1, 7, 13, 60])
async def test_a_short_request_waits_for_at_most_one_running_answer(bench: Bench, arrives_s: int) -> None:
    """Alice has fifty long requests waiting."""
    alice, bob = Load(1, output=(100, 400), backlog=50), Load(2, output=(5, 5))
    simulation = Simulation(bench.queue, bench.clock, [alice])
    await simulation.run(arrives_s)
    await simulation.submit(bob)
    await simulation.run(20)
    [wait_ms] = simulation.waits_ms[2]
    assert 0 < wait_ms <= 400 * TOKEN_MS


loads = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 50), st.integers(0, 150)).map(
        lambda drawn: Load(0, drawn[0], (drawn[1], drawn[1] + drawn[2]), backlog=3)
    ),
    min_size=2,
    max_size=5,
).map(lambda drawn: [Load(tenant, each.weight, each.output, each.backlog) for tenant, each in enumerate(drawn, 1)])


@settings(max_examples=60)
@given(loads=loads, slots=st.integers(1, 3), seed=st.integers(0, 1000))
def test_weighted_tokens_of_tenants_that_always_wait_differ_by_a_constant(
    loads: list[Load], slots: int, seed: int
) -> None:
    """The bound of Sheng et al., theorem 4.4, with weights: twice the most that all slots can use between two charges.

    It does not grow with the time.
    """
    clock = Clock()
    simulation = Simulation(MemoryQueue(clock, PATIENT), clock, loads, slots, seed)
    bound = 2 * max((slots + 1) * (100 + load.output[1]) / load.weight for load in loads)
    for _ in range(6):
        asyncio.run(simulation.run(10))
        shares = [simulation.tokens[load.tenant] / load.weight for load in loads]
        assert max(shares) - min(shares) <= bound


@settings(max_examples=60)
@given(costs=st.lists(st.integers(0, 60), min_size=5, max_size=5))
def test_a_tenant_is_not_starved_by_newcomers(costs: list[int]) -> None:
    """Each of three other tenants comes first at most once, however often they return."""

    async def order() -> list[int]:
        queue = MemoryQueue(Clock(), PATIENT)
        running, patient = ticket(tenant=9), ticket(tenant=1, tokens=1)
        waiting = [patient]
        assert isinstance(await queue.enter(running), Turn)
        await queue.enter(patient)
        served = []
        for index, cost in enumerate(costs):
            waiting.append(ticket(tenant=2 + index % 3, tokens=cost))
            await queue.enter(waiting[-1])
            await queue.finish(running.request_id, cost)
            [running] = [each for each in waiting if isinstance(queue.places[each.request_id], Turn)]
            waiting.remove(running)
            served.append(running.tenant_id)
        return served

    served = asyncio.run(order())
    before = served[: served.index(1)]
    assert len(before) == len(set(before))


async def test_batch_requests_are_not_starved_by_interactive_ones(memory_bench: Bench) -> None:
    """With a constant backlog of interactive requests, a batch request begins soon after half of the maximum wait."""
    rules = QueueRules(wait_max_s=30, tickets_max=64, restore_s=0)
    queue = MemoryQueue(memory_bench.clock, rules)
    simulation = Simulation(queue, memory_bench.clock, [Load(1, output=(50, 100), backlog=2)])
    await simulation.run(5)
    batch = ticket(tenant=2, priority=Priority.BATCH, candidates=replicas("a"))
    await queue.enter(batch)
    for _ in range(9):
        await simulation.run(2)
        await queue.poll([batch.request_id])
    [place] = await queue.poll([batch.request_id])
    assert isinstance(place, Turn)
    assert 15_000 <= place.waited_ms <= 15_000 + 100 * TOKEN_MS
