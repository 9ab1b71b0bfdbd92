"""The interface of the queue, and the values that it takes and returns.

A replica runs as many requests at a time as it has *slots*. Their number is given, or learnt: now and then one request
more is sent, and its success adds a slot, see `redis/lua/learning.lua`. A request takes a free slot of one of its
candidates at once. When there is none, it waits as a *ticket*. Each call that frees a slot also grants it to the next
ticket, in the same atomic step, so that a slot is never free while a ticket waits for it.

The next ticket is determined by four rules, in this order:

1. Interactive tickets come before batch tickets. A batch ticket that has waited for half of `wait_max_s` is promoted to
   interactive.
2. The tenant with the fewest *virtual tokens* comes first. These are its input plus output tokens divided by its
   weight. Of equal tenants, the one that got the latest slot comes last, and else the one with the oldest ticket first.
3. Of the tenant's keys, the one with the fewest virtual tokens comes first, with the same rule for equal keys.
4. The key's oldest ticket comes first.

Virtual tokens are the virtual token counter (VTC) of Sheng et al., "Fairness in Serving Large Language Models", OSDI
2024. The input estimate is charged when the slot is granted, the tokens that the request really has are charged while
they are produced (`renew`) and at the end (`finish`). A tenant that returns is lifted to the lowest counter of the
tenants that wait, or else to that of the tenant that got the latest slot, so that an idle tenant gains no credit. All
counters start again at 0 when no request runs or waits, which is the end of a busy period.

A request ends in exactly one way: it is *finished* (by its owner, at any point), it *times out* as a ticket, or its
lease *expires* because its owner died. An expired request that turns out to be alive is re-established by the next
`enter` or `renew`, also when its slot was granted to another request in between: it is running at the replica, whatever
the queue assumes. Every method raises `StoreUnavailable` when the store does not answer in time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.values import Priority

# How long a finished or timed-out request is remembered, so that a call that arrives late does not take a slot for it.
ENDED_MS = 60_000
WEIGHT_MAX = 1000
# The slots of a replica whose number is learnt.
AUTO = 0
SLOT_LEASE_S = 15.0


@dataclass(frozen=True, slots=True)
class QueueRules:
    """The bounds of the queue; all durations in seconds.

    `wait_max_s` is the longest wait. `tickets_max` and `bytes_max` bound the tickets of one tenant and their bodies. A
    ticket lives for `ticket_lease_s` after its last `enter` or `poll`, and a granted slot too until its first `renew`.
    A running request lives for `slot_lease_s` after its last `renew` or `move`. No slot is granted for the first
    `restore_s` after the store lost data, in which running requests are re-established.
    """

    wait_max_s: float = 30.0
    tickets_max: int = 64
    bytes_max: int = 67_108_864
    ticket_lease_s: float = 5.0
    slot_lease_s: float = SLOT_LEASE_S
    restore_s: float = 1.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that can serve the request.

    A request gets the free slot of the lowest `rank`, among equal ranks that of the replica with the least share of its
    slots in use, then the first in the list. `slots` is used while the store knows no other number; see `set_slots`.
    With AUTO the store learns the number, from 1 on. Names have no tabs.
    """

    replica: str
    rank: int
    slots: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request for a slot of one of the `candidates`, of which there is at least one.

    `weight` is the share of the tenant, 1 to WEIGHT_MAX. `input_tokens` is an estimate. `body_bytes` is the size of the
    body that its owner retains while it waits. `owner` names the process that is notified on its turn. The first call
    has `arrived_at_ms` None, each later one the value of the reply. `model` is compared only.
    """

    request_id: str
    tenant_id: int
    key_id: int
    weight: int
    priority: Priority
    input_tokens: int
    body_bytes: int
    candidates: tuple[Candidate, ...]
    owner: str
    arrived_at_ms: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """The request has a slot of `replica`. `waited_ms` is the time that it spent as a ticket, 0 if it did not wait.

    A request that moves may be a ticket several times.
    """

    replica: str
    arrived_at_ms: int
    waited_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request is a ticket."""

    arrived_at_ms: int


@dataclass(frozen=True, slots=True)
class QueueFull:
    """The tenant has `tickets_max` tickets, or their bodies would exceed `bytes_max`. Nothing was stored.

    `retry_after_s` (whole seconds) is the time after which all present tickets have been granted at the current pace.
    """

    retry_after_s: int


@dataclass(frozen=True, slots=True)
class QueueTimeout:
    """The request waited for `wait_max_s`. `enter` has removed its ticket. `retry_after_s` as in `QueueFull`."""

    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The request was finished or timed out before."""


Place = Turn | Waiting | QueueFull | QueueTimeout | Ended


@dataclass(frozen=True, slots=True)
class Timing:
    """When the answer of a request grew, in ms since the meter opened the request, from which slots are learnt.

    `first_ms` is the time of its first token, None before and for an error. `last_ms` is that of its latest bytes, and
    `age_ms` the present time, which is the end of a request that is over.
    """

    first_ms: int | None = None
    last_ms: int = 0
    age_ms: int = 0


UNKNOWN = Timing()


@dataclass(frozen=True, slots=True)
class Running:
    """A running request as its meter knows it. `tokens` are its input and output tokens so far.

    `answers` states that `replica` answers. Before an answer begins, `replica` is the one whose slot was granted, and
    the request may have moved.
    """

    request_id: str
    tenant_id: int
    key_id: int
    weight: int
    replica: str
    tokens: int
    timing: Timing = UNKNOWN
    answers: bool = True


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The slots of a replica and how many of them are in use.

    `is_learnt`: their number is learnt. `is_suspended`: none is granted now, see `Queue.suspend`.
    """

    slots: int
    running: int
    is_learnt: bool = False
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """The numbers of a tenant's requests that run and that wait, and its virtual tokens in this busy period."""

    running: int
    waiting: int
    virtual_tokens: float


@dataclass(frozen=True, slots=True)
class TicketStatus:
    """A ticket: its arrival, its tenant and key, and the replicas that it waits for."""

    arrived_at_ms: int
    tenant_id: int
    key_id: int
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue by replica and by tenant, and its tickets, the oldest first.

    Tenants that neither run nor wait are absent.
    """

    replicas: dict[str, ReplicaStatus]
    tenants: dict[int, TenantStatus]
    tickets: tuple[TicketStatus, ...]


class Queue(Protocol):
    """The slots of all replicas and the requests that wait for them."""

    async def enter(self, ticket: Ticket) -> Place:
        """Takes a slot, or waits. Idempotent: a request that is known gets its present place, and a longer lease.

        Meant for `authz`, on arrival, again when it is notified of the turn, and for a ticket that `poll` reports as
        unknown.
        """
        ...

    async def poll(self, request_ids: Sequence[str]) -> list[Turn | Waiting | None]:
        """The places of requests, in their order, with a longer lease for tickets; None: the store does not know it.

        Meant for `authz`, every second or two for all its tickets. It makes up for lost notifications.
        """
        ...

    async def finish(self, request_id: str, tokens: int = 0, timing: Timing = UNKNOWN) -> bool:
        """Ends a request, as a ticket or with a slot.

        A request that had a slot is charged `tokens` in place of all that was charged before, but at least one.
        `timing` is UNKNOWN unless a meter ends it.
        Meant for `authz` when a request is cancelled or denied on its turn, and for the meter after settlement.
        False: the request was unknown. A call for it that arrives later gets `Ended`.
        """
        ...

    async def renew(self, running: Sequence[Running]) -> list[bool]:
        """Extends the leases and charges the tokens so far. Re-establishes the slots that the store has lost.

        The slot of a request that another replica than the granted one answers follows it, even to one without a free
        slot: `move` was not called or did not reply. For the same reason a ticket that is answered gets a slot. Meant
        for the meter, every second for requests that make progress.
        Returns one value for each request, in their order. False: it was finished.
        """
        ...

    async def move(self, request_id: str, replica: str, attempt: int) -> Turn | Waiting | QueueTimeout | Ended:
        """Frees the request's slot at another replica, then takes one of `replica` or waits for it.

        `attempt` is the number of the attempt at `replica`, from 2 on. A call that is about an earlier attempt than
        another call before, or that arrives when the request is being answered, changes nothing.

        A waiting request is interactive, with its original time of arrival. The limits of waiting tickets do not apply.
        All waits of a request together last at most `wait_max_s`. QueueTimeout: they have lasted so long. The request
        stays where it waits until it is finished. The tokens that were charged before are charged once. Idempotent:
        repeated calls extend the lease of a request that waits. A request stays where it is when the slots of
        `replica` are unknown. Ended: the store does not know the request.

        Meant for the meter, before Envoy tries a request at another replica.
        """
        ...

    async def set_slots(self, slots: dict[str, int]) -> None:
        """Sets the number of slots of replicas. A replica without slots gets no further request."""
        ...

    async def suspend(self, replicas: Sequence[str], duration_s: float) -> None:
        """Grants no slot of these replicas for a time, because they are unavailable.

        A request whose candidates are all suspended gets a slot nevertheless, so that it fails at once. Running
        requests keep their slots. Meant for `control`, which repeats the call as long as a replica is unavailable.
        """
        ...

    async def status(self) -> QueueStatus:
        """The present state."""
        ...


class Turns(Protocol):
    """The notifications of tickets whose turn it is."""

    def of(self, owner: str) -> AbstractAsyncContextManager[Callable[[float], Awaitable[str | None]]]:
        """Subscribes to the turns of one process's tickets.

        Yields a function that waits for the next request id, at most the given seconds, and returns None when there is
        none. A notification may be lost with a connection, so its owner also polls. Both raise StoreUnavailable.
        """
        ...
