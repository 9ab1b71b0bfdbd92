"""Which replica a conversation prefers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from authz.affinity import (
    BEGINNING_CHARACTERS,
    PROMPT_CHARACTERS,
    TEXT_CHARACTERS,
    beginning_of,
    with_preference,
)
from gateway.queue.port import Candidate

REPLICAS = tuple(Candidate(f"backend:pair:{number}", 0, 4) for number in range(4))
SYSTEM = {"role": "system", "content": "Be brief."}


def question(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def preferred(document: dict[str, Any], tenant_id: int = 1, candidates: tuple[Candidate, ...] = REPLICAS) -> str:
    return min(with_preference(candidates, tenant_id, "m:latest", document), key=lambda each: each.rank).replica


@pytest.mark.parametrize(
    ("first", "next_turn"),
    [
        (
            {"messages": [SYSTEM, question("a")]},
            {"messages": [SYSTEM, question("a"), {"role": "assistant", "content": "b"}, question("c")]},
        ),
        (
            {"system": "s", "messages": [question("a")]},
            {"system": "s", "messages": [question("a"), question("c")], "stream": True},
        ),
        (
            {"instructions": "s", "input": [question("a")]},
            {"instructions": "s", "input": [question("a"), question("c")]},
        ),
        ({"prompt": "x" * PROMPT_CHARACTERS}, {"prompt": "x" * PROMPT_CHARACTERS + "more"}),
        ({"input": "y" * PROMPT_CHARACTERS}, {"input": "y" * PROMPT_CHARACTERS + "more"}),
    ],
)
def test_all_turns_of_a_conversation_have_one_beginning(first: dict[str, Any], next_turn: dict[str, Any]) -> None:
    assert beginning_of(first) == beginning_of(next_turn) != ""
    assert preferred(first) == preferred(next_turn)


@pytest.mark.parametrize(
    "long",
    # Each worker of pytest-xdist collects the parameters, so they are functions.
    [
        lambda: [question("x" * 9_000_000)],
        lambda: [{"role": "user", "content": "What is this?", "images": ["y" * 9_000_000]}],
        lambda: [{"role": "system", "content": [{"type": "text", "text": f"{number}"} for number in range(300_000)]}],
        lambda: [{"role": "assistant", "content": str(number)} for number in range(300_000)],
        lambda: [{"role": "user", "content": "a", "numbers": list(range(300_000))}],
    ],
    ids=["text", "image", "parts", "messages", "other field"],
)
def test_a_long_beginning_is_cut(long: Callable[[], list[dict[str, Any]]]) -> None:
    messages = long()
    beginning = beginning_of({"messages": messages})
    assert 0 < len(beginning) <= BEGINNING_CHARACTERS + TEXT_CHARACTERS
    assert beginning == beginning_of({"messages": [*messages, SYSTEM]})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [question("x" * 9_000)]}, {"messages": [question("x" * 9_001)]}),
        ({"messages": [SYSTEM, question("a")]}, {"messages": [SYSTEM, question("b")]}),
        ({"system": "z" * 9_000, "prompt": "a"}, {"system": "z" * 9_000, "prompt": "b"}),
        ({"prompt": "a"}, {"system": "a", "prompt": "a"}),
        ({"messages": [question("a"), {"role": "x"}]}, {"messages": [{"role": "user", "content": ["a"]}]}),
    ],
)
def test_conversations_with_different_beginnings_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert beginning_of(one) != beginning_of(other)


@pytest.mark.parametrize(
    "document",
    [{}, {"messages": []}, {"prompt": ""}, {"prompt": 5}, {"prompt": ["a"]}, {"input": ["a", "b"]}],
)
def test_a_request_without_a_prompt_has_no_preference(document: dict[str, Any]) -> None:
    assert beginning_of(document) == ""
    assert with_preference(REPLICAS, 1, "m", document) == REPLICAS


def test_conversations_are_spread_over_the_replicas_and_tenants_are_independent() -> None:
    documents = [{"messages": [question(f"question {number}")]} for number in range(400)]
    chosen = Counter(map(preferred, documents))
    assert set(chosen) == {each.replica for each in REPLICAS}
    assert min(chosen.values()) > 50
    same = sum(preferred(each, 1) == preferred(each, 2) for each in documents)
    assert 50 < same < 200


def test_a_replica_that_goes_changes_its_own_conversations_only() -> None:
    left = REPLICAS[1:]
    for number in range(100):
        document = {"prompt": f"{number}"}
        if (before := preferred(document)) != REPLICAS[0].replica:
            assert preferred(document, candidates=left) == before


def test_the_order_of_backends_comes_first_and_a_single_replica_needs_no_preference() -> None:
    candidates = (*REPLICAS[:2], Candidate("backend:far", 1, 1))
    document = {"prompt": "p"}
    ranks = {each.replica: each.rank for each in with_preference(candidates, 1, "m", document)}
    assert sorted(ranks.values()) == [0, 1, 2]
    assert ranks["backend:far"] == 2
    alone = (Candidate("backend:a", 0, 1), Candidate("backend:b", 1, 1))
    assert with_preference(alone, 1, "m", document) == alone
