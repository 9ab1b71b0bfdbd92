"""Encodes the arguments and decodes the replies of the scripts in `lua/`. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any

from gateway.queue.port import (
    UNKNOWN,
    Candidate,
    Ended,
    Place,
    QueueFull,
    QueueStatus,
    QueueTimeout,
    ReplicaStatus,
    TenantStatus,
    Ticket,
    TicketStatus,
    Timing,
    Turn,
    Waiting,
)
from gateway.values import Priority

# As in `queue.lua`.
SCALE = 1000
# Precedes a learnt number of slots, as in `learning.lua`.
LEARNT = "auto:"


def ticket(each: Ticket) -> tuple[str | int, ...]:
    """Ten arguments of `enter.lua`."""
    return (
        pool(each.model, each.candidates),
        slots(each.candidates),
        each.tenant_id,
        each.key_id,
        each.weight,
        int(each.priority is Priority.BATCH),
        each.input_tokens,
        each.body_bytes,
        each.owner,
        each.arrived_at_ms or 0,
    )


@lru_cache(maxsize=1024)
def slots(candidates: tuple[Candidate, ...]) -> str:
    """The slots of the candidates of a ticket."""
    return json.dumps([candidate.slots for candidate in candidates])


@lru_cache(maxsize=1024)
def pool(model: str, candidates: tuple[Candidate, ...]) -> str:
    """The model and the candidates of a ticket without their slots. It has no tab, because JSON escapes it."""
    return json.dumps([model, *([each.replica, each.rank] for each in candidates)])


def times(timing: Timing) -> tuple[int, int, int]:
    """Three arguments of `renew.lua`, see `learning.lua`."""
    return -1 if timing.first_ms is None else timing.first_ms, timing.last_ms, timing.age_ms


def ending(timing: Timing) -> tuple[int, int]:
    """Two arguments of `finish.lua`: the times of the first token and of the end."""
    return (-1, -1) if timing == UNKNOWN else (times(timing)[0], timing.age_ms)


def place(reply: list[Any]) -> Place:
    """The reply of `enter.lua`."""
    match reply:
        case [b"turn", replica, arrived_at_ms, waited_ms]:
            return Turn(replica.decode(), arrived_at_ms, waited_ms)
        case [b"waiting", arrived_at_ms]:
            return Waiting(arrived_at_ms)
        case [b"full", retry_after_s]:
            return QueueFull(retry_after_s)
        case [b"timeout", retry_after_s]:
            return QueueTimeout(retry_after_s)
        case _:
            return Ended()


def moved_place(reply: list[Any]) -> Turn | Waiting | QueueTimeout | Ended:
    """The reply of `move.lua`."""
    found = place(reply)
    return Ended() if isinstance(found, QueueFull) else found


def known_place(reply: list[Any]) -> Turn | Waiting | None:
    """One element of the reply of `poll.lua`."""
    found = place(reply)
    return found if isinstance(found, Turn | Waiting) else None


def status(hashes: Mapping[str, Mapping[bytes, bytes]], now_ms: int) -> QueueStatus:
    """The status at a time from the fields of STATE, SLOTS, TICKETS and VIRTUAL, by the names of their keys."""
    state = {name.decode(): value.decode() for name, value in hashes["state"].items()}
    slots_of = _by_replica(state, "slots:")
    running = {name: int(count) for name, count in _by_replica(state, "running:").items() if count != "0"}
    suspended = {name for name, until_ms in _by_replica(state, "suspended:").items() if now_ms < int(until_ms)}
    replicas = {
        name: ReplicaStatus(
            int(slots_of.get(name, "0").removeprefix(LEARNT)),
            running.get(name, 0),
            is_learnt=slots_of.get(name, "").startswith(LEARNT),
            is_suspended=name in suspended,
        )
        for name in {*slots_of, *running}
    }
    tickets = [json.loads(text) for text in hashes["tickets"].values()]
    running_of = Counter(int(text.split(b"\t")[1]) for text in hashes["slots"].values())
    waiting_of = Counter(each["tenant"] for each in tickets)
    virtual = _numbers(hashes["virtual"])
    return QueueStatus(
        replicas,
        {
            tenant: TenantStatus(
                running_of[tenant],
                waiting_of[tenant],
                virtual.get(f"t{tenant}", 0) / SCALE,
            )
            for tenant in {*running_of, *waiting_of}
        },
        tuple(sorted(map(_ticket_status, tickets), key=attrgetter("arrived_at_ms", "tenant_id", "key_id", "replicas"))),
    )


def _ticket_status(fields: Mapping[str, Any]) -> TicketStatus:
    replicas = tuple(name for name, _ in json.loads(fields["pool"])[1:])
    return TicketStatus(fields["arrived"], fields["tenant"], fields["key"], replicas)


def _by_replica(state: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _numbers(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in fields.items()}
