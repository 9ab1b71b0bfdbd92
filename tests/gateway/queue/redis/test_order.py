"""Redis grants slots in the order of the model when many tenants and keys are close to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queue.port import QueueRules, Running, Turn
from gateway.queue.redis.queue import RedisQueue
from gateway.stores.redis import connect
from gateway.values import Priority
from tests.gateway.queue.builders import replicas, settings_for, ticket
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.quota.builders import Clock

RULES = QueueRules(wait_max_s=600, ticket_lease_s=600, slot_lease_s=600, restore_s=0)
KEYS = (11, 12, 21, 22, 31)

# A step: a request of a key with an input and a class arrives, and a running one ends with these tokens.
steps = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from([0, 1, 1, 2]),
        st.sampled_from([Priority.INTERACTIVE, Priority.INTERACTIVE, Priority.BATCH]),
        st.sampled_from(["wait", "renew", "finish", "finish"]),
        st.sampled_from([0, 1, 1, 2]),
    ),
    min_size=20,
    max_size=60,
)


async def compare(redis_url: str, slots: int, drawn: Sequence[tuple[int, int, Priority, str, int]]) -> None:
    clock = Clock()
    redis = connect(settings_for(redis_url))
    await redis.flushall()
    memory, stored = MemoryQueue(clock, RULES), RedisQueue(redis, 5.0, RULES, clock)
    try:
        for key, tokens, priority, step, used in drawn:
            clock.forward(0.001)
            new = ticket(
                tenant=key // 10, key=key, tokens=tokens, priority=priority, candidates=replicas("a", slots=slots)
            )
            assert await memory.enter(new) == await stored.enter(new)
            oldest = next(each for each, place in memory.places.items() if isinstance(place, Turn))
            if step == "finish":
                assert await memory.finish(oldest, used) == await stored.finish(oldest, used)
            elif step == "renew":
                # Its tenant and key are those of the slot, which is known.
                entry = Running(oldest, 0, 0, 1, "a", used)
                assert await memory.renew([entry]) == await stored.renew([entry])
            ids = list(memory.places)
            assert await memory.poll(ids) == await stored.poll(ids)
        assert await memory.status() == await stored.status()
    finally:
        await redis.aclose()


@settings(max_examples=80)
@given(slots=st.integers(1, 2), drawn=steps)
def test_redis_grants_slots_in_the_order_of_the_model(
    redis_url: str, slots: int, drawn: list[tuple[int, int, Priority, str, int]]
) -> None:
    asyncio.run(compare(redis_url, slots, drawn))
