"""Builders of admissions and entries, a clock that tests set, and a ledger in a dict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache
from itertools import count

from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.quota import periods
from gateway.quota.port import Admission, Event, Hold, PeriodUsage, Progress, Quota, Reserved, TenantUsage
from gateway.record.entry import Entry
from gateway.record.grant import seal
from gateway.settings import Settings
from gateway.values import Budgets, Limits, Outcome, Period, UsageSource

NOON_MS = 1_763_726_400_000  # 2025-11-21T12:00:00Z
WIDE = Limits(rpm=1_000_000, tpm=1_000_000_000, concurrent=1_000_000)
NO_PROGRESS = Progress()
_ids = count()


@dataclass
class Clock:
    """The store's clock, in milliseconds since the epoch."""

    now_ms: int = NOON_MS

    def __call__(self) -> int:
        return self.now_ms

    def forward(self, seconds: float) -> None:
        """Moves the clock forward, or back."""
        self.now_ms += int(seconds * 1000)


@cache
def settings_for(redis_url: str, lease_s: float, backlog_max: int, running_max: int) -> Settings:
    """The settings for a server, which are read once. The deadline is generous: the machine may be busy."""
    return Settings(
        redis_url=SecretStr(redis_url),
        redis_timeout_s=5.0,
        hold_lease_s=lease_s,
        audit_buffer_size=backlog_max,
        max_concurrent_requests=running_max,
    )


def asks(
    *,
    tenant: int = 1,
    key: int = 11,
    limits: Limits = WIDE,
    tenant_limits: Limits = WIDE,
    budgets: Budgets | None = None,
    tenant_budgets: Budgets | None = None,
    model: str = "llama3.2:latest",
    input_tokens: int = 10,
    output: int = 90,
    request_id: str | None = None,
) -> Admission:
    """An admission with a new request id and, by default, limits that never apply."""
    return Admission(
        request_id or f"r{next(_ids)}",
        tenant,
        key,
        tenant_limits,
        limits,
        tenant_budgets or Budgets(),
        budgets or Budgets(),
        model,
        input_tokens,
        output,
        '{"path": "/api/chat", "user_agent": "ü"}',
    )


def again(admission: Admission) -> Admission:
    """The same request with a new request id."""
    return replace(admission, request_id=f"r{next(_ids)}")


def hold_of(admission: Admission, admitted: Reserved) -> Hold:
    """The hold as the meter of the admitted request has it."""
    return Hold(
        admission.request_id,
        admission.tenant_id,
        admission.key_id,
        admitted.admitted_at_ms,
        admitted.input_tokens,
        admitted.output_cap,
        seal(admission.grant_draft, admitted.admitted_at_ms, admitted.input_tokens, admitted.output_cap),
    )


def entry(
    hold: Hold, input_tokens: int | None = None, output_tokens: int = 0, outcome: Outcome = Outcome.COMPLETE
) -> Entry:
    """The ledger entry of a hold; by default with the estimated input."""
    return Entry(
        request_id=hold.request_id,
        ts_ms=hold.admitted_at_ms,
        tenant_id=hold.tenant_id,
        tenant="acme",
        key_id=hold.key_id,
        key_prefix="nz_abc",
        client_ip="127.0.0.1",
        method="POST",
        path="/api/chat",
        surface="native",
        model="llama3.2:latest",
        backend="default",
        status=200,
        code=None,
        outcome=outcome,
        stream=True,
        input_tokens=hold.input_tokens if input_tokens is None else input_tokens,
        output_tokens=output_tokens,
        usage_source=UsageSource.EXACT,
        reserved_tokens=hold.input_tokens + hold.output_cap,
        ttft_ms=1,
        duration_ms=2,
        request_bytes=3,
        response_bytes=4,
        user_agent="test",
    )


def denial(tenant: int | None = None) -> Entry:
    """The entry of a request that was denied."""
    anonymous = entry(Hold(f"d{next(_ids)}", tenant or 0, 0, NOON_MS, 0, 0, ""), outcome=Outcome.DENIED)
    return replace(anonymous, tenant_id=tenant, key_id=None, status=401, code="invalid_api_key")


async def admitted(quota: Quota, admission: Admission) -> Hold:
    """Admits a request. Raises AssertionError when it is denied."""
    answer = await quota.admit(admission)
    assert isinstance(answer, Reserved), answer
    return hold_of(admission, answer)


async def renew(quota: Quota, hold: Hold, progress: Progress = NO_PROGRESS) -> bool:
    """Renews one hold. Raises StoreUnavailable when the store does not reply."""
    (renewed,) = await quota.renew_all([(hold, progress)])
    if isinstance(renewed, StoreUnavailable):
        raise renewed
    return renewed


@dataclass
class Ledger:
    """The ledger as the quota sees it: every request once, and their sums. It fails while it is `unavailable`.

    `meanwhile` is called once, after the next sums were read and before they are returned.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    unavailable: bool = False
    loads: int = 0
    meanwhile: Callable[[], Awaitable[object]] | None = None

    def append(self, events: Collection[Event]) -> set[int]:
        """Records events. Returns the tenants of those that were recorded before, which change nothing."""
        tenants = set()
        for event in events:
            each = Entry.from_json(event.text)
            if self.entries.setdefault(each.request_id, each) is not each and each.tenant_id is not None:
                tenants.add(each.tenant_id)
        return tenants

    def used(self, tenant_id: int) -> Counter[tuple[int | None, Period, date]]:
        """Tokens per subject and period."""
        used: Counter[tuple[int | None, Period, date]] = Counter()
        for each in self.entries.values():
            if each.tenant_id == tenant_id:
                for period, start in periods.starts(periods.at(each.ts_ms)).items():
                    used[None, period, start] += each.input_tokens + each.output_tokens
                    used[each.key_id, period, start] += each.input_tokens + each.output_tokens
        return used

    async def load(self, tenant_id: int, now: datetime, waiting: Collection[str]) -> TenantUsage:  # noqa: ARG002
        """A UsageLoader. It returns past periods too, which the quota ignores."""
        self.loads += 1
        if self.unavailable:
            raise StoreUnavailable("the ledger is unavailable")
        usage = TenantUsage(
            [
                PeriodUsage("tenant" if key is None else "key", tenant_id if key is None else key, period, start, n)
                for (key, period, start), n in self.used(tenant_id).items()
            ],
            frozenset(each for each in waiting if each in self.entries),
        )
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            await meanwhile()
        return usage


async def drain(quota: Quota, ledger: Ledger, *, acknowledge: bool = True) -> int:
    """Records the waiting events of all streams in the ledger, and returns their number."""
    drained = 0
    for stream in quota.streams:
        while events := await stream.read("test", 100, 0):
            for tenant_id in ledger.append(events):
                await quota.invalidate_counters(tenant_id)
            drained += len(events)
            if acknowledge:
                await stream.acknowledge([event.id for event in events])
    return drained
