"""Affinity on a running stack with two replicas, whose simulated Ollama retains evaluated prompts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.e2e.load import MODEL, client
from tests.e2e.stack import PATIENT, Simulator, Stack, simulator, up
from tests.ports import free_port

CONVERSATIONS, TURNS = 12, 4
SYSTEM = "You are a helpful assistant. " * 20


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[Simulator, Simulator]]:
    pace = ("--prefill-tokens-per-s", "2000", "--num-parallel", "4")
    with simulator(*pace) as one, simulator(*pace) as other:
        yield one, other


@pytest.fixture(scope="module")
def stack(replicas: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one, other = replicas
    for each in replicas:
        each.behave(prefill_tokens_per_s=2000, num_parallel=4, cached_prompts=4 * CONVERSATIONS)
    backends = [{"name": "pair", "base_url": one.url, "replicas": [other.url], "slots": 4}]
    with up(
        tmp_path_factory.mktemp("affinity") / "state",
        *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
        OLLAMA_BACKENDS=json.dumps(backends),
        ROUTING_AFFINITY="on",
        **PATIENT,
    ) as running:
        yield running


async def turn(session: aiohttp.ClientSession, key: str, messages: list[dict[str, Any]]) -> str:
    """Sends the next turn of a conversation, appends the answer, and returns the request id."""
    body = {"model": MODEL, "stream": False, "messages": messages, "options": {"num_predict": 12}}
    async with session.post("/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        assert response.status == 200
        messages.append((await response.json())["message"])
        return response.headers["x-request-id"]


async def test_the_turns_of_a_conversation_go_to_the_replica_that_has_their_prefix(
    stack: Stack, replicas: tuple[Simulator, Simulator]
) -> None:
    key = stack.new_key("talks")
    conversations: list[list[str]] = [[] for _ in range(CONVERSATIONS)]
    async with client(stack.url, "affinity") as session:
        # No two conversations have a prefix in common.
        histories: list[list[dict[str, Any]]] = [
            [{"role": "system", "content": f"{number} {SYSTEM}"}] for number in range(CONVERSATIONS)
        ]
        for _ in range(TURNS):
            # The conversations take turns, two at a time, so that no replica is without a free slot.
            for first in range(0, CONVERSATIONS, 2):
                pair = range(first, first + 2)
                for number in pair:
                    histories[number].append({"role": "user", "content": f"What is the number {number}?"})
                ids = await asyncio.gather(*(turn(session, key, histories[number]) for number in pair))
                for number, request_id in zip(pair, ids, strict=True):
                    conversations[number].append(request_id)
    served = [
        [(place, record) for place, each in enumerate(replicas) for record in each.requests(request_id)]
        for request_ids in conversations
        for request_id in request_ids
    ]
    assert all(len(found) == 1 for found in served)
    turns = [found[0] for found in served]
    by_conversation = [turns[first : first + TURNS] for first in range(0, len(turns), TURNS)]
    places = [{place for place, _ in each} for each in by_conversation]
    assert all(len(each) == 1 for each in places)
    assert set.union(*places) == {0, 1}
    for (_, first_turn), *later in by_conversation:
        assert all(record["cached_tokens"] >= 0.9 * first_turn["prompt_tokens"] for _, record in later)
