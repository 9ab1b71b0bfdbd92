"""Builders of tickets, and rules with short bounds."""

from __future__ import annotations

from functools import cache
from itertools import count

from pydantic import SecretStr

from gateway.queue.port import UNKNOWN, Candidate, QueueRules, Running, Ticket, Timing, Turn
from gateway.settings import Settings
from gateway.values import Priority

RULES = QueueRules(wait_max_s=30, tickets_max=5, bytes_max=1000, ticket_lease_s=5, slot_lease_s=15, restore_s=0)
_ids = count()


@cache
def settings_for(redis_url: str) -> Settings:
    """The settings, which are read once: that takes as long as ten steps of a state machine."""
    return Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5.0)


def replicas(*names: str, slots: int = 1) -> tuple[Candidate, ...]:
    """Candidates with the same number of slots, all of rank 0."""
    return tuple(Candidate(name, 0, slots) for name in names)


def ticket(
    *,
    tenant: int = 1,
    key: int | None = None,
    weight: int = 1,
    priority: Priority = Priority.INTERACTIVE,
    tokens: int = 10,
    body_bytes: int = 100,
    candidates: tuple[Candidate, ...] = replicas("a"),
    owner: str = "worker",
    request_id: str | None = None,
    arrived_at_ms: int | None = None,
) -> Ticket:
    """A ticket with a new request id, of the tenant's first key."""
    return Ticket(
        request_id or f"r{next(_ids):09d}",
        tenant,
        10 * tenant + 1 if key is None else key,
        weight,
        priority,
        tokens,
        body_bytes,
        candidates,
        owner,
        arrived_at_ms,
    )


def running(each: Ticket, turn: Turn, tokens: int, timing: Timing = UNKNOWN) -> Running:
    """The request of a ticket that has its turn, as its meter knows it."""
    return Running(each.request_id, each.tenant_id, each.key_id, each.weight, turn.replica, tokens, timing)
