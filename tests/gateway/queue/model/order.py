"""Which ticket is next, and the virtual tokens that decide it. Pure. Model of `line.lua` and parts of `queue.lua`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from gateway.queue.port import Candidate
from gateway.values import Priority

# Virtual tokens are integers in thousandths.
SCALE = 1000


@dataclass(slots=True)
class Request:
    """What a ticket and a slot share. `charged_tokens` are those that the counters include."""

    request_id: str
    tenant_id: int
    key_id: int
    weight: int
    arrived_at_ms: int
    charged_tokens: int = 0
    attempt: int = 1


@dataclass(slots=True)
class Ticketed(Request):
    """A ticket. `promoted_at_ms` is the time at which a batch ticket becomes interactive.

    `model` is None for a request that moves. `since_ms` is the time at which its present wait began, and
    `waited_before_ms` the time that it waited before.
    """

    priority: Priority = Priority.INTERACTIVE
    promoted_at_ms: int | None = None
    input_tokens: int = 0
    body_bytes: int = 0
    candidates: tuple[Candidate, ...] = ()
    owner: str = ""
    model: str | None = ""
    since_ms: int = 0
    waited_before_ms: int = 0

    def waited_by(self, now_ms: int) -> int:
        """The time that the request has spent as a ticket."""
        return self.waited_before_ms + max(0, now_ms - self.since_ms)


@dataclass(slots=True)
class VirtualTokens:
    """The virtual tokens of tenants and keys, and which of them got the latest slot."""

    tenants: dict[int, int] = field(default_factory=dict)
    keys: dict[int, int] = field(default_factory=dict)
    latest_tenant: int | None = None
    latest_key: dict[int, int] = field(default_factory=dict)

    def charge(self, request: Request, tokens: int) -> None:
        """Replaces the tokens that were charged for `request`; a request costs at least one token."""
        tokens = max(1, tokens)
        amount = tokens * SCALE // request.weight - request.charged_tokens * SCALE // request.weight
        request.charged_tokens = tokens
        self.tenants[request.tenant_id] = self.tenants.get(request.tenant_id, 0) + amount
        self.keys[request.key_id] = self.keys.get(request.key_id, 0) + amount

    def granted(self, request: Request) -> None:
        """Notes who got the latest slot."""
        self.latest_tenant = request.tenant_id
        self.latest_key[request.tenant_id] = request.key_id

    def lift(self, tenant_id: int, key_id: int, tickets: Collection[Ticketed]) -> None:
        """Lifts the tenant and the key of a new request, each if it has no ticket."""
        tenants = {each.tenant_id for each in tickets}
        _lift(self.tenants, tenant_id, tenants, self.latest_tenant)
        keys = {each.key_id for each in tickets if each.tenant_id == tenant_id}
        _lift(self.keys, key_id, keys, self.latest_key.get(tenant_id))

    def next(self, tickets: Iterable[Ticketed]) -> Ticketed:
        """The next of these tickets, of which there is at least one."""
        tickets = list(tickets)
        interactive = [each for each in tickets if each.priority is Priority.INTERACTIVE]
        tickets = interactive or tickets
        least = min(self.tenants.get(each.tenant_id, 0) for each in tickets)
        tenants = {each.tenant_id for each in tickets if self.tenants.get(each.tenant_id, 0) == least}
        firsts = [min((t for t in tickets if t.tenant_id == tenant), key=self._within_tenant) for tenant in tenants]
        return min(firsts, key=lambda each: (each.tenant_id == self.latest_tenant, each.arrived_at_ms, each.request_id))

    def _within_tenant(self, ticket: Ticketed) -> tuple[int, bool, int, str]:
        return (
            self.keys.get(ticket.key_id, 0),
            ticket.key_id == self.latest_key.get(ticket.tenant_id),
            ticket.arrived_at_ms,
            ticket.request_id,
        )


def _lift(counters: dict[int, int], subject: int, waiting: Collection[int], latest: int | None) -> None:
    if subject in waiting:
        return
    others = waiting or (() if latest is None else (latest,))
    # A counter is negative when a slot that was re-established after a loss cost less than its request had reserved.
    own = counters.get(subject, 0)
    counters[subject] = max(own, min((counters.get(each, 0) for each in others), default=own))
