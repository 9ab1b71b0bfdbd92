"""What a quota does, and the values that go in and come out.

A request *reserves* at admission (a hold: its input estimate plus the output it is granted) and ends in exactly one
way: *settled* (the hold becomes the actual amounts and one ledger event), *released* (as if it had never been), or
*expired* (nobody renewed the hold; the reaper settles it). Every method raises `StoreUnavailable` when the store does
not answer in time; nothing is ever admitted then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, Protocol

from gateway.errors import Code
from gateway.record.entry import Entry
from gateway.record.grant import Grant
from gateway.values import Budgets, Limits, Period

# How long a request id is remembered as settled, and as denied or released.
SETTLED_MS = 3_600_000
RELEASED_MS = 60_000
# How long nothing is admitted behind a restart or a loss of the store. By then every process has noticed, and has told
# it again what runs and what it may have lost.
RESTORE_S = 1.5


@dataclass(frozen=True, slots=True)
class Admission:
    """One request that asks to be admitted.

    `request_id` must be made by the gateway: an id that is held, settled or released already is refused.
    `input_tokens` is an estimate, which is corrected by what such estimates were worth for this tenant and `model`.
    `requested_output_tokens` is already at most MAX_NUM_PREDICT, and 0 where nothing is generated.
    `grant_draft` is the grant without this decision (`gateway.record.grant`). The hold stores it sealed, and the reaper
    writes the ledger row of a lost request from it.
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


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """What the rate and budget headers say: of key and tenant the one with less left, of all budgets likewise.

    Remaining is what is left after this request when it was admitted, never below 0. The budget is None when the
    request has none.
    """

    requests_limit: int
    requests_remaining: int
    tokens_limit: int
    tokens_remaining: int
    budget_period: Period | None
    budget_remaining: int | None


@dataclass(frozen=True, slots=True)
class Reserved:
    """The hold is taken. `admitted_at_ms` is the store's clock and must become the ledger entry's `ts_ms`;
    `input_tokens` is the corrected estimate, as it is held."""

    admitted_at_ms: int
    input_tokens: int
    output_cap: int
    limit_status: LimitStatus


@dataclass(frozen=True, slots=True)
class ReservationDenied:
    """Nothing was reserved. `code` is the first of audit_backlog, rate_limit_exceeded, concurrency_exceeded,
    budget_exhausted, budget_reserved, token_rate_exceeded that applies.

    `retry_after_s` is a promise: the same request asked again after so many whole seconds is admitted, if nothing else
    happens meanwhile and the store's clock only runs on. It is None when no such time is known: while running requests
    stand in the way (concurrency_exceeded, budget_reserved, audit_backlog), when a `total` budget is used up, and when
    the request is larger than the limit itself. All checks are looked at for it, not only the one that gave the code.
    """

    code: Code
    retry_after_s: int | None
    limit_status: LimitStatus


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running request has come; the reaper settles at this when its meter dies."""

    input_tokens: int = 0
    output_tokens: int = 0
    response_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """What an admitted request holds, as its meter knows it and as the store keeps it."""

    request_id: str
    tenant_id: int
    key_id: int
    admitted_at_ms: int
    input_tokens: int
    output_cap: int
    grant_json: str

    @classmethod
    def of(cls, grant: Grant, grant_json: str) -> Hold:
        """The hold of a grant; `grant_json` is the sealed text that the grant was read from."""
        return cls(
            grant.request_id,
            grant.tenant_id,
            grant.key_id,
            grant.admitted_at_ms,
            grant.input_estimate,
            grant.output_cap,
            grant_json,
        )

    def grant(self) -> Grant:
        """The grant that the hold was taken for. Raises ValueError when `grant_json` is not one."""
        return Grant.from_json(self.grant_json)


@dataclass(frozen=True, slots=True)
class ExpiredHold:
    """A hold whose deadline has passed, with the last progress its meter reported."""

    hold: Hold
    progress: Progress


@dataclass(frozen=True, slots=True)
class Event:
    """One ledger event in a stream. `text` is raw: whoever reads it decides what to do with one that is no Entry."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time in which the store has lost nothing. `name` changes when it may have, `opens_in_s` says when admissions
    begin again after that, 0 when they have."""

    name: str
    opens_in_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """Live holds, and events that still wait to be written to the ledger, over all shards."""

    holds: int
    events: int


@dataclass(frozen=True, slots=True)
class Counters:
    """The live counters of one tenant in the periods in force; key None is the tenant itself, absent is 0."""

    used: Mapping[tuple[int | None, Period], int]
    held: Mapping[tuple[int | None, Period], int]
    live: Mapping[int | None, int]


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
    """What the ledger knows of a tenant and its keys, and which of the asked requests are in those sums."""

    used: Sequence[PeriodUsage]
    recorded: frozenset[str]


UsageLoader = Callable[[int, datetime, Collection[str]], Awaitable[TenantUsage]]
"""`load(tenant_id, now, waiting)` reads the ledger: the sums of the tenant and all its keys for the periods that `now`
(aware) is in and for later ones, which there are when the store's clock went back; and which of the `waiting` request
ids those sums contain. Both must come from one snapshot, or an event recorded in between would be counted twice. Raises
StoreUnavailable."""


class EventStream(Protocol):
    """The reading side of one shard's stream. Events are delivered at least once."""

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Event]:
        """Up to `count` events nobody was given yet. Waits at most `block_ms` for the first, possibly less."""
        ...

    async def claim(self, consumer: str, count: int, idle_ms: int) -> list[Event]:
        """Takes over events that were given to a consumer at least `idle_ms` ago and never acknowledged."""
        ...

    async def acknowledge(self, ids: Sequence[str]) -> int:
        """The events are in the ledger: they leave the stream for good; ids that are not in it are ignored. Returns
        how many of them the store may have lost before."""
        ...


class Quota(Protocol):
    """Rate windows, concurrency, budgets and the way into the ledger, for every tenant."""

    async def admit(self, admission: Admission) -> Reserved | ReservationDenied:
        """Checks everything and reserves everything, or reserves nothing.

        When a call fails or is cancelled without an answer, a hold it may have taken is released in the background,
        and reaped when that fails too.
        """
        ...

    async def renew(self, hold: Hold, progress: Progress) -> bool:
        """Moves the hold's deadline on and stores the progress; re-establishes a hold that the store has lost.

        False: the request was settled or released by someone else, so nothing that follows will be accounted and
        the stream must be cut.
        """
        ...

    async def settle(self, entry: Entry, *, only_if_expired: bool = False) -> bool:
        """Replaces the hold by `entry`'s tokens everywhere, frees its lease and appends the entry to the stream.

        `entry.ts_ms` must be the admission's `admitted_at_ms`: it says which periods the tokens belong to. A hold the
        store has lost is settled all the same. False: it was settled or released before, and nothing changed; with
        `only_if_expired` also when the hold is gone or its meter renewed it after all. An entry that the store
        accepted and has lost since is counted again; see `invalidate_counters`. Raises ValueError for an entry without
        tenant or key.
        """
        ...

    async def release(self, request_id: str, tenant_id: int, key_id: int) -> bool:
        """Voids the hold: nothing used, no event, and a late admission or renewal of that id is refused.

        False: there was no hold.
        """
        ...

    async def record(self, entry: Entry) -> None:
        """Appends the event of a request that was denied; a hold that its admission may have taken is voided with it.

        Nothing happens to a request that was settled or recorded before; nor to one whose hold lives, unless it is of
        the tenant that `entry` names. Raises Denied(audit_backlog) when twice `backlog_max` is reached: the caller then
        denies with that code instead, and no row is written. Admissions stop at `backlog_max` itself, so that denials
        have capacity left.
        """
        ...

    async def held(self, request_id: str) -> Hold | None:
        """The hold of a request, whoever's it is; None when there is none."""
        ...

    async def expired(self, limit: int) -> list[ExpiredHold]:
        """Up to `limit` holds past their deadline, oldest first. They count until they are settled."""
        ...

    async def counters(self, tenant_id: int) -> Counters | None:
        """The tenant's live counters, None while they are not there (they are rebuilt by the next admission)."""
        ...

    async def invalidate_counters(self, tenant_id: int) -> None:
        """The tenant's counters may differ from the ledger: the next admission rebuilds them, and a rebuild that is
        under way is void.

        For the drain to say: of an event that was recorded before, ahead of acknowledging it, and of one that it
        recorded after the store had lost it.
        """
        ...

    async def epoch(self) -> Epoch:
        """Which epoch it is. Whoever told the store what is not in the ledger yet looks from time to time."""
        ...

    async def backlog(self) -> Backlog:
        """How many holds are live and how many events wait."""
        ...

    @property
    def streams(self) -> Sequence[EventStream]:
        """One event stream per shard; the drain reads each of them."""
        ...

    async def aclose(self) -> None:
        """Ends what runs in the background. The connection belongs to whoever made it."""
        ...
