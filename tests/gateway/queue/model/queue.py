"""The queue in the memory of one process: a second implementation with the semantics of the Redis one, and its model.

A call is atomic, as a Lua script is in Redis. It has no bounded slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from gateway.queue.port import (
    AUTO,
    ENDED_MS,
    UNKNOWN,
    Candidate,
    Ended,
    Place,
    QueueFull,
    QueueRules,
    QueueStatus,
    QueueTimeout,
    ReplicaStatus,
    Running,
    TenantStatus,
    Ticket,
    TicketStatus,
    Timing,
    Turn,
    Waiting,
)
from gateway.values import Priority
from tests.gateway.queue.model.learning import ARRIVAL_MS, Learning, Observed
from tests.gateway.queue.model.order import SCALE, Request, Ticketed, VirtualTokens

PACE_MS, GAP_MAX_MS = 1000, 60_000


@dataclass(slots=True)
class Slot(Request):
    """A slot in use."""

    replica: str = ""
    waited_ms: int = 0
    is_learnt: bool = False
    picked_up_ms: int | None = None
    model: str | None = None
    seen_ms: int = 0
    first_ms: int | None = None
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """A replica with a slot for the next request. `older` is that of the trial that begins with it."""

    replica: str
    older: dict[str, Observed] | None = None


class MemoryQueue:
    """See `gateway.queue.port.Queue`. `now_ms` is the store's clock."""

    def __init__(self, now_ms: Callable[[], int], rules: QueueRules) -> None:
        self._now_ms = now_ms
        self._rules = rules
        self.notified: list[tuple[str, str]] = []
        self.lose_everything()

    def lose_everything(self) -> None:
        """Loses all data, as a restart without persistence does."""
        self._since_ms: int | None = None
        self._advanced_at_ms: int | None = None
        self._granted_at_ms = 0
        self._pace_ms = PACE_MS
        self._capacity: dict[str, int | Learning] = {}
        self._suspended: dict[str, int] = {}
        self._slots: dict[str, Slot] = {}
        self._tickets: dict[str, Ticketed] = {}
        self._leases: dict[str, int] = {}
        self._virtual = VirtualTokens()
        self._ended: dict[str, int] = {}

    @property
    def places(self) -> dict[str, Turn | Waiting]:
        """The places of all requests that the queue knows."""
        return {each: self._place(each) for each in self._leases}

    @property
    def replicas(self) -> set[str]:
        """The replicas whose numbers of slots the queue knows."""
        return set(self._capacity)

    @property
    def is_up_to_date(self) -> bool:
        """Whether slots are granted now, and the latest call found everything that has expired by now."""
        now_ms = self._now_ms()
        return self._advanced_at_ms == now_ms and self._is_open(now_ms)

    async def enter(self, ticket: Ticket) -> Place:
        """See the port."""
        self._use_slots(ticket)
        if self._is_ended(ticket.request_id):
            return Ended()
        return self._enter(ticket)

    def _enter(self, ticket: Ticket) -> Place:
        now_ms = self._now_ms()
        can_grant = self._advance()
        known = self._tickets.get(ticket.request_id)
        if known and self._has_timed_out(known.arrived_at_ms):
            self._remove_ticket(ticket.request_id)
            self._reset_if_idle()
            return self._time_out(ticket.request_id)
        if place := self._known_place(ticket.request_id):
            slot = self._slots.get(ticket.request_id)
            if slot and slot.is_learnt and slot.picked_up_ms is None:
                slot.picked_up_ms = now_ms
            return place
        arrived_at_ms = ticket.arrived_at_ms or now_ms
        if self._has_timed_out(arrived_at_ms):
            return self._time_out(ticket.request_id)
        replica = self._free_replica(ticket.model, ticket.candidates) if can_grant else None
        if not replica and ticket.arrived_at_ms is None and self._is_full(ticket):
            return QueueFull(self._retry_after_s())
        self._virtual.lift(ticket.tenant_id, ticket.key_id, self._tickets.values())
        created = self._ticketed(ticket, arrived_at_ms)
        if replica:
            self._grant(created, replica, max(0, now_ms - arrived_at_ms), has_waited=False)
        else:
            self._add_ticket(created)
        return self._place(ticket.request_id)

    async def move(self, request_id: str, replica: str, attempt: int) -> Turn | Waiting | QueueTimeout | Ended:
        """See the port."""
        slot, ticket = self._slots.get(request_id), self._tickets.get(request_id)
        present = slot or ticket
        if self._is_ended(request_id) or not present:
            return Ended()
        if self.is_stale(request_id, attempt):
            return self._place(request_id)
        candidates = (Candidate(replica, 0, AUTO),)
        is_there = (
            slot.replica == replica if slot else ticket and (ticket.model, ticket.candidates) == (None, candidates)
        )
        if not is_there and replica in self._capacity:
            if slot:
                self._observe(slot, UNKNOWN, has_ended=True)
            left = self._take(request_id)
            assert left
            self._add_ticket(
                Ticketed(
                    request_id,
                    left.tenant_id,
                    left.key_id,
                    left.weight,
                    left.arrived_at_ms,
                    left.charged_tokens,
                    attempt,
                    input_tokens=ticket.input_tokens if ticket else left.charged_tokens,
                    body_bytes=ticket.body_bytes if ticket else 0,
                    candidates=candidates,
                    owner=ticket.owner if ticket else "",
                    model=None,
                    since_ms=self._now_ms(),
                    waited_before_ms=ticket.waited_by(self._now_ms()) if ticket else slot.waited_ms if slot else 0,
                )
            )
        present.attempt = attempt
        self._known_place(request_id)
        self._advance()
        if request_id in self._slots:
            lease_ms = self._now_ms() + int(self._rules.slot_lease_s * 1000)
            self._leases[request_id] = max(self._leases[request_id], lease_ms)
        elif self._tickets[request_id].waited_by(self._now_ms()) >= int(self._rules.wait_max_s * 1000):
            return QueueTimeout(self._retry_after_s())
        return self._place(request_id)

    def is_stale(self, request_id: str, attempt: int) -> bool:
        """Whether a move of this attempt of a known request changes nothing."""
        slot, ticket = self._slots.get(request_id), self._tickets.get(request_id)
        present = slot or ticket
        return bool(slot and slot.is_answered) or bool(present and attempt < present.attempt)

    async def poll(self, request_ids: Sequence[str]) -> list[Turn | Waiting | None]:
        """See the port."""
        for each in request_ids:
            self._extend_lease(each)
        self._advance()
        return [self._known_place(each) for each in request_ids]

    async def finish(self, request_id: str, tokens: int = 0, timing: Timing = UNKNOWN) -> bool:
        """See the port."""
        if self._is_ended(request_id):
            return False
        request = self._take(request_id)
        if isinstance(request, Slot):
            ending = Timing() if timing == UNKNOWN else Timing(timing.first_ms, timing.age_ms, timing.age_ms)
            self._observe(request, ending, has_ended=True)
        if isinstance(request, Slot) or (request and request.charged_tokens):
            self._virtual.charge(request, tokens)
        self._ended[request_id] = self._now_ms() + ENDED_MS
        self._reset_if_idle()
        self._pass_on()
        return request is not None

    async def renew(self, running: Sequence[Running]) -> list[bool]:
        """See the port."""
        renewed = [self._renew(each) for each in running]
        self._pass_on()
        return renewed

    def _renew(self, running: Running) -> bool:
        deadline_ms = self._now_ms() + int(self._rules.slot_lease_s * 1000)
        if slot := self._slots.get(running.request_id):
            self._virtual.charge(slot, running.tokens)
            has_moved = running.answers and slot.replica != running.replica
            self._observe(slot, UNKNOWN if has_moved else running.timing, has_ended=has_moved)
            if has_moved:
                slot.replica, slot.is_learnt, slot.picked_up_ms = running.replica, False, None
                slot.model, slot.seen_ms, slot.first_ms = None, 0, None
            slot.is_answered |= running.answers
        elif self._is_ended(running.request_id):
            return False
        elif running.request_id not in self._tickets:
            self._slots[running.request_id] = Slot(
                running.request_id,
                running.tenant_id,
                running.key_id,
                running.weight,
                self._now_ms(),
                running.tokens,
                replica=running.replica,
                is_answered=running.answers,
            )
        elif running.answers:
            ticket = self._tickets.pop(running.request_id)
            self._virtual.charge(ticket, running.tokens)
            self._slots[running.request_id] = Slot(
                ticket.request_id,
                ticket.tenant_id,
                ticket.key_id,
                ticket.weight,
                ticket.arrived_at_ms,
                ticket.charged_tokens,
                ticket.attempt,
                running.replica,
                ticket.waited_by(self._now_ms()),
                is_answered=True,
            )
        self._leases[running.request_id] = max(deadline_ms, self._leases.get(running.request_id, 0))
        return True

    async def set_slots(self, slots: dict[str, int]) -> None:
        """See the port."""
        if slots:
            self._capacity |= slots
            self._advance()

    async def suspend(self, replicas: Sequence[str], duration_s: float) -> None:
        """See the port."""
        if replicas:
            self._suspended |= dict.fromkeys(replicas, self._now_ms() + int(duration_s * 1000))
            self._advance()

    def usable(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The candidates that are not suspended, or all of them if each is."""
        now_ms = self._now_ms()
        return [each for each in candidates if now_ms >= self._suspended.get(each.replica, 0)] or candidates

    async def status(self) -> QueueStatus:
        """See the port."""
        running = self._running()
        running_of = Counter(each.tenant_id for each in self._slots.values())
        waiting_of = Counter(each.tenant_id for each in self._tickets.values())
        return QueueStatus(
            {name: self._replica_status(name, running[name]) for name in {*self._capacity, *running}},
            {
                tenant: TenantStatus(
                    running_of[tenant],
                    waiting_of[tenant],
                    self._virtual.tenants.get(tenant, 0) / SCALE,
                )
                for tenant in {*running_of, *waiting_of}
            },
            tuple(
                sorted(
                    map(_status, self._tickets.values()),
                    key=attrgetter("arrived_at_ms", "tenant_id", "key_id", "replicas"),
                )
            ),
        )

    def _replica_status(self, name: str, running: int) -> ReplicaStatus:
        is_learnt = isinstance(self._capacity.get(name), Learning)
        return ReplicaStatus(self._slots_of(name), running, is_learnt, self._now_ms() < self._suspended.get(name, 0))

    def _observe(self, slot: Slot, timing: Timing, *, has_ended: bool) -> None:
        if not slot.is_learnt:
            return
        at_ms, now_ms = slot.picked_up_ms, self._now_ms()
        if at_ms is not None and now_ms >= at_ms:
            slot.seen_ms = max(slot.seen_ms, at_ms + timing.last_ms)
            if timing.first_ms is not None and slot.first_ms is None:
                slot.first_ms = now_ms - (timing.age_ms - timing.first_ms) + 1
        learning = self._capacity.get(slot.replica)
        if isinstance(learning, Learning):
            learning.observe(now_ms, slot.request_id, slot.seen_ms, slot.first_ms, has_ended=has_ended)

    def _pass_on(self) -> None:
        if self._tickets:
            self._advance()

    def _advance(self) -> bool:
        """Removes what has expired and grants every free slot that a ticket waits for. False: none is granted now."""
        now_ms = self._now_ms()
        for ticket in self._tickets.values():
            if ticket.promoted_at_ms is not None and ticket.promoted_at_ms <= now_ms:
                ticket.priority = Priority.INTERACTIVE
        if self._since_ms is None:
            self._since_ms = now_ms
        self._advanced_at_ms = now_ms
        if not self._is_open(now_ms):
            return False
        expired = [each for each, deadline_ms in self._leases.items() if deadline_ms <= now_ms]
        for each in expired:
            if isinstance(request := self._take(each), Slot):
                self._observe(request, UNKNOWN, has_ended=True)
        if expired:
            self._reset_if_idle()
        while waiting := self._grantable():
            ticket = self._virtual.next([each for each, _ in waiting])
            self._grant_next(ticket, next(free for each, free in waiting if each is ticket))
        return True

    def _grantable(self) -> list[tuple[Ticketed, Free]]:
        """The tickets with a slot for them; those of one pool get the same."""
        free_of: dict[tuple[str | None, tuple[Candidate, ...]], Free | None] = {}
        found = []
        for each in self._tickets.values():
            pool = each.model, each.candidates
            try:
                free = free_of[pool]
            except KeyError:
                free = free_of[pool] = self._free_replica(*pool)
            if free:
                found.append((each, free))
        return found

    def _is_open(self, now_ms: int) -> bool:
        since_ms = self._since_ms or 0
        return not since_ms <= now_ms < since_ms + int(self._rules.restore_s * 1000)

    def _grant_next(self, ticket: Ticketed, replica: Free) -> None:
        now_ms = self._now_ms()
        gap_ms = min(GAP_MAX_MS, max(0, now_ms - max(self._granted_at_ms, ticket.arrived_at_ms)))
        self._pace_ms += (gap_ms - self._pace_ms) // 8
        self._granted_at_ms = now_ms
        self._remove_ticket(ticket.request_id)
        self._grant(ticket, replica, ticket.waited_by(now_ms), has_waited=True)
        self.notified.append((ticket.owner, ticket.request_id))

    def _grant(self, ticket: Ticketed, free: Free, waited_ms: int, *, has_waited: bool) -> None:
        replica = free.replica
        learning = self._capacity.get(replica)
        if isinstance(learning, Learning) and free.older is not None:
            learning.begin(ticket.request_id, self._running()[replica], free.older)
        slot = Slot(
            ticket.request_id,
            ticket.tenant_id,
            ticket.key_id,
            ticket.weight,
            ticket.arrived_at_ms,
            ticket.charged_tokens,
            ticket.attempt,
            replica,
            waited_ms,
        )
        if isinstance(learning, Learning) and ticket.model is not None:
            slot.is_learnt, slot.model = True, ticket.model
            slot.picked_up_ms = None if has_waited else self._now_ms()
        self._virtual.charge(slot, max(ticket.input_tokens, ticket.charged_tokens))
        self._virtual.granted(slot)
        self._slots[slot.request_id] = slot
        self._leases[slot.request_id] = self._now_ms() + self._ticket_lease_ms

    def _ticketed(self, ticket: Ticket, arrived_at_ms: int) -> Ticketed:
        promoted_at_ms = arrived_at_ms + int(self._rules.wait_max_s * 1000) // 2
        is_batch = ticket.priority is Priority.BATCH and self._now_ms() < promoted_at_ms
        return Ticketed(
            ticket.request_id,
            ticket.tenant_id,
            ticket.key_id,
            ticket.weight,
            arrived_at_ms,
            priority=Priority.BATCH if is_batch else Priority.INTERACTIVE,
            promoted_at_ms=promoted_at_ms if is_batch else None,
            input_tokens=ticket.input_tokens,
            body_bytes=ticket.body_bytes,
            candidates=ticket.candidates,
            owner=ticket.owner,
            model=ticket.model,
            since_ms=arrived_at_ms,
        )

    def _add_ticket(self, ticket: Ticketed) -> None:
        self._tickets[ticket.request_id] = ticket
        self._leases[ticket.request_id] = self._now_ms() + self._ticket_lease_ms

    def _remove_ticket(self, request_id: str) -> None:
        del self._tickets[request_id], self._leases[request_id]

    def _take(self, request_id: str) -> Slot | Ticketed | None:
        """Removes the slot or the ticket of a request, and returns it."""
        self._leases.pop(request_id, None)
        return self._slots.pop(request_id, None) or self._tickets.pop(request_id, None)

    def _known_place(self, request_id: str) -> Turn | Waiting | None:
        return self._place(request_id) if self._extend_lease(request_id) else None

    def _extend_lease(self, request_id: str) -> bool:
        """False: the request is unknown."""
        deadline_ms = self._leases.get(request_id)
        if deadline_ms is None:
            return False
        self._leases[request_id] = max(deadline_ms, self._now_ms() + self._ticket_lease_ms)
        return True

    def _place(self, request_id: str) -> Turn | Waiting:
        if slot := self._slots.get(request_id):
            return Turn(slot.replica, slot.arrived_at_ms, slot.waited_ms)
        return Waiting(self._tickets[request_id].arrived_at_ms)

    def _has_timed_out(self, arrived_at_ms: int) -> bool:
        return self._now_ms() >= arrived_at_ms + int(self._rules.wait_max_s * 1000)

    def _time_out(self, request_id: str) -> QueueTimeout:
        self._ended[request_id] = self._now_ms() + ENDED_MS
        return QueueTimeout(self._retry_after_s())

    def _is_full(self, ticket: Ticket) -> bool:
        own = [each for each in self._tickets.values() if each.tenant_id == ticket.tenant_id]
        own_bytes = sum(each.body_bytes for each in own)
        return len(own) >= self._rules.tickets_max or own_bytes + ticket.body_bytes > self._rules.bytes_max

    def _retry_after_s(self) -> int:
        return max(1, -(-len(self._tickets) * self._pace_ms // 1000))

    def _use_slots(self, ticket: Ticket) -> None:
        for each in ticket.candidates:
            self._capacity.setdefault(each.replica, Learning() if each.slots == AUTO else each.slots)

    def _slots_of(self, replica: str) -> int:
        capacity = self._capacity.get(replica, 0)
        return capacity.slots if isinstance(capacity, Learning) else capacity

    def _free_replica(self, model: str | None, candidates: Sequence[Candidate]) -> Free | None:
        """The replica whose slot a request takes, None when no candidate has one. `model` is None when it moves."""
        candidates, running = self.usable(candidates), self._running()
        slots = {each.replica: self._slots_of(each.replica) for each in candidates}
        free = [
            (each.rank, running[each.replica] / slots[each.replica], index, each.replica)
            for index, each in enumerate(candidates)
            if running[each.replica] < slots[each.replica]
        ]
        if free:
            best = min(free)[-1]
            is_last = running[best] == slots[best] - 1 and slots[best] > 1
            return Free(best, self._plan_trial(model, best, running[best]) if is_last else None)
        for each in candidates:
            if running[each.replica] == slots[each.replica]:
                older = self._plan_trial(model, each.replica, running[each.replica])
                if older is not None:
                    return Free(each.replica, older)
        return None

    def _plan_trial(self, model: str | None, replica: str, running: int) -> dict[str, Observed] | None:
        learning, now_ms = self._capacity.get(replica), self._now_ms()
        if model is None or not isinstance(learning, Learning) or not learning.is_due(now_ms, running):
            return None
        older = [each for each in self._slots.values() if each.replica == replica]
        if any(each.model != model for each in older):
            learning.postpone(now_ms)
            return None
        return {
            each.request_id: Observed(
                each.seen_ms, each.first_ms, each.picked_up_ms is None or each.picked_up_ms + ARRIVAL_MS > now_ms
            )
            for each in older
        }

    def _running(self) -> Counter[str]:
        return Counter(each.replica for each in self._slots.values())

    def _reset_if_idle(self) -> None:
        if not self._slots and not self._tickets:
            self._virtual = VirtualTokens()

    def _is_ended(self, request_id: str) -> bool:
        return self._ended.get(request_id, 0) > self._now_ms()

    @property
    def _ticket_lease_ms(self) -> int:
        return int(self._rules.ticket_lease_s * 1000)


def _status(ticket: Ticketed) -> TicketStatus:
    replicas = tuple(each.replica for each in ticket.candidates)
    return TicketStatus(ticket.arrived_at_ms, ticket.tenant_id, ticket.key_id, replicas)
