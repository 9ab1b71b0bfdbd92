"""Which replica a conversation prefers, so that its next turn finds the prefix of its prompt evaluated. Pure.

A replica is chosen by rendezvous hashing (Thaler and Ravishankar, 1998): every `authz` chooses the same one without any
shared state, and a replica that comes or goes changes the choice of no other conversations. The hash is keyed with
the tenant, so that equal prompts of two tenants are independent.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.queue.port import Candidate

# A conversation whose turns have no messages is recognised by so much of its prompt.
PROMPT_CHARACTERS = 1024
_DIGEST = "sha256"


def with_preference(
    candidates: Sequence[Candidate], tenant_id: int, model: str, document: Mapping[str, Any]
) -> tuple[Candidate, ...]:
    """The candidates, of which one of each rank comes before the others of that rank.

    A request gets the free slot of the lowest rank, so it never waits for its replica while another has a free slot.
    `document` is the body of the request. A request without a prompt has no preference.
    """
    ranks = [each.rank for each in candidates]
    beginning = beginning_of(document)
    if len(set(ranks)) == len(ranks) or not beginning:
        return tuple(candidates)
    key = hmac.digest(str(tenant_id).encode(), f"{model}\0{beginning}".encode("utf-8", "replace"), _DIGEST)
    preferred: dict[int, Candidate] = {}
    for each in sorted(candidates, key=lambda each: hmac.digest(key, each.replica.encode(), _DIGEST)):
        preferred.setdefault(each.rank, each)
    return tuple(replace(each, rank=2 * each.rank + (each is not preferred[each.rank])) for each in candidates)


def beginning_of(document: Mapping[str, Any]) -> str:
    """What all turns of a conversation begin with: the system prompt and the messages up to the first one of the user.

    Of a prompt without messages, its first PROMPT_CHARACTERS. Empty when there is none.
    """
    turns = document.get("messages") or document.get("input")
    if isinstance(turns, list):
        first: Any = list(_until_user(turns)) if isinstance(turns[0], dict) else None
    else:
        prompt = document.get("prompt") or turns
        first = prompt[:PROMPT_CHARACTERS] if isinstance(prompt, str) else None
    return json.dumps([document.get("system") or document.get("instructions"), first]) if first else ""


def _until_user(turns: Sequence[Any]) -> Iterator[Any]:
    for turn in turns:
        yield turn
        if isinstance(turn, dict) and turn.get("role") == "user":
            return
