"""The interface of the quota, and the values that it takes and returns.

A request *reserves* at admission: it takes a hold of its estimated input tokens plus the output tokens it is granted.
It ends in exactly one way. It is *settled* (the hold becomes the actual usage and one ledger event), *released* (as if
it had never been admitted), or *expired* (its meter no longer renews the hold, and the reaper settles it). Every method
but `renew_all` raises `StoreUnavailable` when the store does not answer in time; nothing is ever admitted then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal, Protocol

from gateway.errors import Code, StoreUnavailable
from gateway.queue.port import UNKNOWN, Ticket, Timing
from gateway.record.entry import Entry
from gateway.record.grant import Grant
from gateway.values import Budgets, Limits, Period

# How long a request id is remembered as settled, and as denied or released.
SETTLED_MS = 3_600_000
RELEASED_MS = 60_000
# How long nothing is admitted after the store restarted or lost data. It is long enough for every process to notice the
# new epoch and to resubmit its holds and unconfirmed entries.
RESTORE_S = 1.5


@dataclass(frozen=True, slots=True)
class Admission:
    """One request for admission.

    `request_id` is made by the gateway; an id that was held, settled or released before is never admitted again.
    `input_tokens` is an estimate. The quota corrects it by the ratio of counted to estimated tokens that it learned for
    this tenant and `model`. `requested_output_tokens` is at most MAX_NUM_PREDICT, and 0 where nothing is generated.
    `grant_draft` is the grant without the quota's decision (`gateway.record.grant`). The hold stores it sealed, and the
    reaper writes the ledger row of a lost request from it. `calibrates` is False for a prompt that the backend may cut:
    its count is then no sample for the ratio.
    """

    request_id: str
    tenant_id: int
    key_id: int
    tenant_limits: Limits
    key_limits: Limits
    tenant_budgets: Budgets
    key_budgets: Budgets
    model: str
    input_tokens: int
    requested_output_tokens: int
    grant_draft: str
    calibrates: bool = True


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """The values of the rate and budget headers: of key and tenant, and of all budgets, those with the least left.

    An admitted request is already subtracted from the remaining amounts, which are never below 0. The budget is None
    when neither key nor tenant has one. `resets_in_s` is the whole seconds until both rate windows are empty if nothing
    is added.
    """

    requests_limit: int
    requests_remaining: int
    tokens_limit: int
    tokens_remaining: int
    budget_period: Period | None
    budget_remaining: int | None
    resets_in_s: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """The hold is taken.

    `admitted_at_ms` is the time of the store's clock and must become the ledger entry's `ts_ms`. `input_tokens` is the
    corrected estimate that the hold covers. `replica` is the replica whose slot the request has, empty without a queue,
    and `queued_ms` the time that it waited for it.
    """

    admitted_at_ms: int
    input_tokens: int
    output_cap: int
    limit_status: LimitStatus
    replica: str = ""
    queued_ms: int = 0


@dataclass(frozen=True, slots=True)
class Parked:
    """The request waits in the queue. Its hold has no tokens, and counts as a request of its tenant and key.

    `admitted_at_ms` is the time at which the hold was taken, `arrived_at_ms` that of its arrival at the queue.
    `idempotency_token` identifies the hold.
    """

    admitted_at_ms: int
    arrived_at_ms: int
    idempotency_token: str


@dataclass(frozen=True, slots=True)
class ReservationDenied:
    """Nothing was reserved. `code` is the first that applies of audit_backlog, unavailable, rate_limit_exceeded,
    concurrency_exceeded, budget_exhausted, budget_reserved, token_rate_exceeded, and else
    queue_full or queue_timeout. `unavailable` means that the shard's maximum of requests is running.

    The same request, retried after `retry_after_s` (whole seconds), is admitted unless other traffic or a clock step
    intervenes. It is None when no such time is known: when running requests are the reason (audit_backlog, unavailable,
    concurrency_exceeded, budget_reserved), when a `total` budget is used up, and when the request is larger than the
    limit itself. It takes all checks into account, not only the one that gave the code.
    """

    code: Code
    retry_after_s: int | None
    limit_status: LimitStatus


@dataclass(frozen=True, slots=True)
class Progress:
    """The usage of a running request so far. The reaper settles the request with it when its meter dies.

    `replica` is the replica at which it runs, empty without a queue. It answers if `answers`, and else has granted the
    slot. `timing` is for the queue alone. Comparisons leave it out, because it always changes.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    response_bytes: int = 0
    replica: str = ""
    timing: Timing = field(default=UNKNOWN, compare=False)
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Hold:
    """The reservation of an admitted request, as its meter knows it and as the store retains it.

    `weight` is that of its tenant in the queue.
    """

    request_id: str
    tenant_id: int
    key_id: int
    admitted_at_ms: int
    input_tokens: int
    output_cap: int
    grant_json: str
    weight: int = 1

    @classmethod
    def of(cls, grant: Grant, grant_json: str) -> Hold:
        """The hold of `grant`; `grant_json` is the sealed text that the grant was read from."""
        return cls(
            grant.request_id,
            grant.tenant_id,
            grant.key_id,
            grant.admitted_at_ms,
            grant.input_estimate,
            grant.output_cap,
            grant_json,
            grant.weight,
        )

    def grant(self) -> Grant:
        """The grant that the hold was taken for. Raises ValueError when `grant_json` is not one."""
        return Grant.from_json(self.grant_json)


@dataclass(frozen=True, slots=True)
class ExpiredHold:
    """A hold whose deadline has passed, with the last progress that its meter reported."""

    hold: Hold
    progress: Progress


@dataclass(frozen=True, slots=True)
class Event:
    """One ledger event in a stream. `text` is raw; the reader handles a text that is not an Entry."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """A period in which the store has lost nothing.

    `name` changes when the store may have lost data. `opens_in_s` is the time until admissions begin, 0 when they have.
    """

    name: str
    opens_in_s: float


EventId = tuple[int, int]
"""The id of an event: milliseconds and a sequence number. Ids grow within an epoch."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the events have left the streams, which they do when the ledger has them.

    `epoch` is the name of the epoch. Per shard, `oldest` is the id of the oldest event that waits, None when none does,
    and `youngest` the id of the youngest event that was ever appended.
    """

    epoch: str
    oldest: tuple[EventId | None, ...]
    youngest: tuple[EventId, ...]

    def has_passed(self, earlier: Watermark) -> bool:
        """Whether the ledger has every event that had been appended at `earlier`. False in another epoch."""
        return self.epoch == earlier.epoch and all(
            oldest is None or oldest > youngest for oldest, youngest in zip(self.oldest, earlier.youngest, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Backlog:
    """The number of holds, and of events that wait for the ledger, over all shards."""

    holds: int
    events: int


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of one tenant in the current periods: tokens used, tokens held, and requests in flight.

    The key id None stands for the tenant itself. A missing key is 0.
    """

    used: Mapping[tuple[int | None, Period], int]
    held: Mapping[tuple[int | None, Period], int]
    in_flight: Mapping[int | None, int]


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """Tokens (input plus output) that one subject used in one period; `period_start` is a UTC day."""

    subject: Literal["tenant", "key"]
    subject_id: int
    period: Period
    period_start: date
    tokens: int


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """The ledger's sums of a tenant and its keys, and which of the queried requests those sums include."""

    used: Sequence[PeriodUsage]
    recorded: frozenset[str]


UsageLoader = Callable[[int, datetime, Collection[str]], Awaitable[TenantUsage]]
"""`load(tenant_id, now, waiting)` reads the ledger.

It returns the sums of the tenant and all its keys for the periods that `now` (aware) is in, and for later ones, which
exist when the store's clock went back. It also returns which of the `waiting` request ids those sums include. Both must
come from one snapshot, or an event that is recorded in between would be counted twice. Raises StoreUnavailable."""


class EventStream(Protocol):
    """The reading side of one shard's stream. Events are delivered at least once."""

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Event]:
        """Up to `count` events that no consumer has yet. Waits at most `block_ms` for the first, possibly less."""
        ...

    async def claim(self, consumer: str, count: int, idle_ms: int) -> list[Event]:
        """Takes over events that were delivered to a consumer at least `idle_ms` ago and never acknowledged."""
        ...

    async def acknowledge(self, ids: Sequence[str]) -> int:
        """Deletes events that are in the ledger from the stream; ids that are not in it are ignored.

        Returns how many of them the store may have lost before.
        """
        ...


class Turnstile(Protocol):
    """A quota with a queue, as `authz` uses it."""

    async def enter(
        self, admission: Admission, ticket: Ticket, parked: Parked | None = None
    ) -> Reserved | Parked | ReservationDenied:
        """Admits a request as `Quota.admit` does and takes a slot for it in the same step, or parks it.

        The input of `ticket` is replaced by the corrected estimate. A request that finds no free slot takes a hold
        without tokens, which counts as a request of its tenant and key, and waits. The call is repeated with `parked`,
        the previous reply, when the request is notified of its turn and when its time is over. Tokens and budgets are
        checked again then. A parked request that is denied has its hold until its denial is recorded. A first call that
        fails or is cancelled is undone like that of `Quota.admit`.
        """
        ...

    async def poll(self, request_ids: Sequence[str]) -> list[bool]:
        """Whether each request is no longer a ticket, so that it has to be admitted again; in their order.

        Extends the leases of the others. Raises StoreUnavailable.
        """
        ...

    async def leave(self, request_ids: Sequence[str]) -> None:
        """Frees the places of requests whose callers have left. Each hold stays until its settlement or denial.

        A settlement frees the place too, but many settlements take longer than this call. Raises StoreUnavailable.
        """
        ...


class Quota(Protocol):
    """Rate windows, concurrency, budgets and the event stream to the ledger, for every tenant."""

    async def admit(self, admission: Admission) -> Reserved | ReservationDenied:
        """Makes all checks and reserves everything, or reserves nothing.

        When a call fails or is cancelled, the hold that it may have taken is released in the background. When that
        fails too, the hold expires and is reaped.
        """
        ...

    async def renew_all(self, running: Sequence[tuple[Hold, Progress]]) -> list[bool | StoreUnavailable]:
        """Extends the deadlines of the holds and stores their progress. Re-establishes those that the store has lost.

        Returns one value for each hold, in their order. False: another process settled or released the request. Nothing
        that follows will be accounted, so its answer must be cut. StoreUnavailable, which is never raised here: the
        store did not reply about this hold; it may or may not be renewed.

        With a queue, the slot of each request is renewed in the same step, see `gateway.queue.port.Queue.renew`.
        """
        ...

    async def settle(self, entry: Entry, *, only_if_expired: bool = False) -> bool:
        """Replaces the hold by `entry`'s tokens in every counter, and appends the entry to the stream.

        `entry.ts_ms` must be the `admitted_at_ms` of the admission, which determines the periods of the tokens. A hold
        that the store has lost is settled too. False: the request was settled or released before, and nothing changed;
        with `only_if_expired` also when the hold is gone or its meter has renewed it. An entry that the store accepted
        and then lost is counted again; see `invalidate_counters`. Raises ValueError for an entry without tenant or key.
        """
        ...

    async def release(self, request_id: str, tenant_id: int, key_id: int) -> bool:
        """Voids the hold: no usage. A late admission or renewal of that id is denied.

        There is no event, unless Envoy has reported meanwhile that it denied the request; see `record`. False: there
        was no hold.
        """
        ...

    async def record(self, entry: Entry, *, admission_unknown: bool = False) -> None:
        """Appends the event of a denied request, and voids the hold that its admission may have taken.

        Does nothing for a request that was settled or recorded before, or whose hold is not of the tenant that `entry`
        names. Raises Denied(audit_backlog) when the waiting events reach twice `backlog_max`: the caller then denies
        with that code instead, and there is no row. Admissions stop at `backlog_max` itself, so that denials have
        capacity left.

        `admission_unknown` is for a caller that does not know whether the request was admitted, and for which tenant.
        The call then also does nothing when any shard remembers that the request was settled or recorded. A hold of
        the request, in any shard, keeps the entry, which is appended if the hold is released instead of settled. Such
        a denial does not end the request: after a loss of data, its settlement may be submitted later.
        """
        ...

    async def held(self, request_id: str) -> Hold | None:
        """The hold of a request of any tenant; None when there is none."""
        ...

    async def expired(self, limit: int) -> list[ExpiredHold]:
        """Up to `limit` holds past their deadline, oldest first. They count until they are settled."""
        ...

    async def counters(self, tenant_id: int) -> Counters | None:
        """The tenant's counters, None while there are no valid ones (the next admission rebuilds them)."""
        ...

    async def invalidate_counters(self, tenant_id: int) -> None:
        """Marks the tenant's counters as different from the ledger and voids a rebuild in progress.

        The next admission rebuilds them. The drain calls this for an event that was recorded before, ahead of
        acknowledging it, and for an event that it recorded after the store had lost it.
        """
        ...

    async def epoch(self) -> Epoch:
        """The current epoch. Processes with holds or entries poll it, to resubmit them when its name changes."""
        ...

    async def watermark(self) -> Watermark:
        """How far the events have left the streams."""
        ...

    async def backlog(self) -> Backlog:
        """The number of holds and of waiting events."""
        ...

    @property
    def streams(self) -> Sequence[EventStream]:
        """One event stream per shard; the drain reads each of them."""
        ...

    async def aclose(self) -> None:
        """Ends the background work. The caller that made the connection closes it."""
        ...
