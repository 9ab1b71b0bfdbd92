"""Which replica a conversation prefers, so that its next turn finds the prefix of its prompt evaluated. Pure.

A replica is chosen by rendezvous hashing (Thaler and Ravishankar, 1998): every `authz` chooses the same one without any
shared state, and a replica that comes or goes changes the choice of no other conversations. The hash is keyed with
the tenant, so that equal prompts of two tenants are independent.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from gateway.queue.port import Candidate

# A conversation whose turns have no messages is recognised by so much of its prompt.
PROMPT_CHARACTERS = 1024
# A text of a message counts by this much of its beginning and by its length. All texts together count by this number of
# values and characters. A message may have an image of several MiB.
TEXT_CHARACTERS = 4096
VALUES_MAX = 1024
BEGINNING_CHARACTERS = 65_536
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

    Long texts are cut, and so is a long beginning. Of a prompt without messages, its first PROMPT_CHARACTERS. Empty
    when there is none.
    """
    turns = document.get("messages") or document.get("input")
    first: Iterable[Any]
    if isinstance(turns, list):
        if not isinstance(turns[0], dict):
            return ""
        first = _until_user(turns)
    else:
        prompt = document.get("prompt") or turns
        if not isinstance(prompt, str) or not prompt:
            return ""
        first = (prompt[:PROMPT_CHARACTERS],)
    return _text(chain((document.get("system") or document.get("instructions"),), first))


def _until_user(turns: Sequence[Any]) -> Iterator[Any]:
    for turn in turns:
        yield turn
        if isinstance(turn, dict) and turn.get("role") == "user":
            return


def _text(values: Iterable[Any]) -> str:
    """A text that is the same for the same values. It has at most VALUES_MAX of them, and a text for each is cut."""
    pieces: list[str] = []
    characters = 0
    for piece in islice(_pieces(values), VALUES_MAX):
        pieces.append(piece)
        characters += len(piece)
        if characters >= BEGINNING_CHARACTERS:
            break
    return "\0".join(pieces)


def _pieces(values: Iterable[Any]) -> Iterator[str]:
    """The values in the order of a JSON text. Without recursion, because a document may be deep."""
    nested = [iter(values)]
    while nested:
        for value in nested[-1]:
            if isinstance(value, str):
                yield f"{len(value)}:{value[:TEXT_CHARACTERS]}"
            elif isinstance(value, dict):
                yield "{"
                nested.append(chain.from_iterable(value.items()))
                break
            elif isinstance(value, list):
                yield "["
                nested.append(iter(value))
                break
            else:
                yield f"{value}"
        else:
            nested.pop()
            yield "]"
