"""Bob's short chat: alone, and next to Alice's eight long ones without and with the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from bench.fairness.callers import Answer, Callers, open_callers
from bench.fairness.plan import Plan
from bench.fairness.stack import Ollama, Stack, Stores, open_stores, until
from bench.sides.side import BenchFailed

ALICES_CHATS = 8
BOBS_WORDS = 5
SLOTS = 1
MODEL = "neighbour"
# The settings of the gateway without the queue.
QUEUE_OFF = {"QUEUE_MAX_WAIT_S": "0"}
Document = dict[str, Any]


async def measure(plan: Plan, stack: Stack, backends: Mapping[str, Ollama]) -> Document:
    """Returns the times of Bob's chats in seconds, alone and next to Alice."""
    # The two measurements may share a stack.
    name = f"{MODEL}-{time.monotonic_ns()}"
    async with open_stores(stack) as stores, open_callers(stack.url, name) as callers:
        alone, crowded = await _bobs_answers(plan, callers, stores, backends[MODEL])
    return {"alone": [answer.took_s for answer in alone], "crowded": [answer.took_s for answer in crowded]}


def compare(plan: Plan, queue_off: Document, queue_on: Document) -> Document:
    """The times of Bob's chats by situation, from the two measurements."""
    took_s = {
        "alone": queue_off["alone"] + queue_on["alone"],
        "off": queue_off["crowded"],
        "on": queue_on["crowded"],
    }
    return {
        "alices_chats": ALICES_CHATS,
        "alices_words": plan.neighbour_words,
        "bobs_words": BOBS_WORDS,
        "took_s": took_s,
        "median_s": {situation: median(times) for situation, times in took_s.items()},
    }


async def _bobs_answers(
    plan: Plan, callers: Callers, stores: Stores, backend: Ollama
) -> tuple[list[Answer], list[Answer]]:
    """Bob's answers alone, and those while Alice always has ALICES_CHATS requests at the gateway."""
    keys = await stores.create_tenants(callers.name, {"alice": 1, "bob": 1})

    async def send(tenant: str, words: int) -> Answer:
        answer = await callers.chat(keys[tenant], MODEL, words)
        if answer.status != 200:
            raise BenchFailed(f"{tenant}'s answer has status {answer.status} {answer.code}")
        return answer

    async def repeat() -> None:
        while True:
            await send("alice", plan.neighbour_words)

    # Each worker hashes a key once.
    for tenant in ["alice", "bob"] * 2 * plan.workers:
        await send(tenant, 1)
    alone = [await send("bob", BOBS_WORDS) for _ in range(plan.samples)]
    async with asyncio.TaskGroup() as group:
        work = [group.create_task(repeat()) for _ in range(ALICES_CHATS)]

        async def is_busy() -> bool:
            return backend.running() >= SLOTS

        await until(is_busy, "Alice's chats do not run")
        await asyncio.sleep(plan.neighbour_words / 100)
        crowded = [await send("bob", BOBS_WORDS) for _ in range(plan.samples)]
        for each in work:
            each.cancel()
    return alone, crowded
