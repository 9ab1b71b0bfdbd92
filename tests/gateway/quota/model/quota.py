"""The quota in the memory of one process: a second implementation with the semantics of the Redis one, and its model.

Code between two awaits is atomic, as a Lua script is in Redis. Nothing survives the process.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from gateway.errors import Code, Denied, StoreUnavailable
from gateway.quota import periods
from gateway.quota.port import (
    RELEASED_MS,
    RESTORE_S,
    SETTLED_MS,
    Admission,
    Backlog,
    Counters,
    Epoch,
    ExpiredHold,
    Hold,
    Progress,
    ReservationDenied,
    Reserved,
    UsageLoader,
    Watermark,
)
from gateway.quota.rebuild import WAIT_S, BegunRebuild, NotBegun, Rebuilder, Used
from gateway.record.entry import Entry
from gateway.record.grant import seal
from gateway.values import Budgets, Limits, UsageSource
from tests.gateway.quota.model.calibration import Calibration, learn
from tests.gateway.quota.model.counters import Subject, TenantCounters
from tests.gateway.quota.model.decision import SubjectState, decide, limit_status
from tests.gateway.quota.model.stream import MemoryStream
from tests.gateway.quota.model.window import Window


class _End(Enum):
    SETTLED = auto()
    RECORDED = auto()
    REPORTED = auto()
    RELEASED = auto()


@dataclass(slots=True)
class _Held:
    hold: Hold
    estimate: tuple[str, int] | None
    second: int | None
    deadline_ms: int
    progress: Progress
    report: Entry | None = None


class MemoryQuota:
    """See `gateway.quota.port.Quota`.

    `now_ms` is the store's clock. `lease_s` is how long a hold lives without renewal. `backlog_max` bounds the events
    that wait, and `running_max` the holds. `load` reads the ledger when a tenant's counters are missing. `restore_s` is
    the port's RESTORE_S.
    """

    def __init__(
        self,
        *,
        now_ms: Callable[[], int],
        lease_s: float,
        backlog_max: int,
        load: UsageLoader,
        running_max: int = 10_000,
        restore_s: float = RESTORE_S,
        rebuild_wait_s: float = WAIT_S,
    ) -> None:
        self._now_ms = now_ms
        self._lease_ms = int(lease_s * 1000)
        self._backlog_max = backlog_max
        self._running_max = running_max
        self._restore_ms = int(restore_s * 1000)
        self._since_ms: int | None = None
        self._stream = MemoryStream(now_ms)
        self._tenants: dict[int, TenantCounters] = {}
        self._windows: dict[tuple[int, Subject], Window] = {}
        self._holds: dict[str, _Held] = {}
        self._finished: dict[str, tuple[_End, int]] = {}
        self._calibrations: dict[tuple[int, str], Calibration] = {}
        self._rebuilds: dict[int, str] = {}
        self._rebuilder = Rebuilder(self, load, rebuild_wait_s)

    @property
    def streams(self) -> Sequence[MemoryStream]:
        """One stream: memory has one shard."""
        return (self._stream,)

    @property
    def held_ids(self) -> frozenset[str]:
        """The request ids of the holds."""
        return frozenset(self._holds)

    def lose_everything(self) -> None:
        """Loses all data, as a restart without persistence does."""
        self._since_ms = None
        self._calibrations.clear()
        self._stream.clear()
        self._tenants.clear()
        self._windows.clear()
        self._holds.clear()
        self._finished.clear()
        self._rebuilds.clear()

    async def admit(self, admission: Admission) -> Reserved | ReservationDenied:
        """See the port."""
        if not self._is_ready(admission.tenant_id):
            await self._rebuilder.rebuild(admission.tenant_id)
            if not self._is_ready(admission.tenant_id):
                raise StoreUnavailable("the counters became invalid again")
        if admission.request_id in self._holds or self._end(admission.request_id):
            raise StoreUnavailable("this request id was used before")
        estimate = (admission.model, admission.input_tokens) if admission.calibrates else None
        if known := self._calibrations.get((admission.tenant_id, admission.model)):
            admission = replace(admission, input_tokens=known.corrected(admission.input_tokens))
        return self._admit(admission, estimate)

    def _admit(self, admission: Admission, estimate: tuple[str, int] | None) -> Reserved | ReservationDenied:
        now_ms = self._now_ms()
        self._tenants[admission.tenant_id].roll_over(now_ms)
        at_ms = self._advance(admission, now_ms)
        full = [
            code
            for code, count, maximum in (
                (Code.AUDIT_BACKLOG, len(self._stream), self._backlog_max),
                (Code.UNAVAILABLE, len(self._holds), self._running_max),
            )
            if count >= maximum
        ]
        cap = decide(admission, self._subject_states(admission, now_ms), now_ms, full)
        if isinstance(cap, ReservationDenied):
            return cap
        hold = Hold(
            admission.request_id,
            admission.tenant_id,
            admission.key_id,
            now_ms,
            admission.input_tokens,
            cap,
            seal(admission.grant_draft, now_ms, admission.input_tokens, cap),
        )
        for subject in (admission.key_id, None):
            self._windows[hold.tenant_id, subject].add(at_ms, hold.input_tokens + cap)
        self._holds[hold.request_id] = _Held(hold, estimate, at_ms // 1000, now_ms + self._lease_ms, Progress())
        self._tenants[hold.tenant_id].add_hold(hold)
        return Reserved(now_ms, hold.input_tokens, cap, limit_status(self._subject_states(admission, now_ms), now_ms))

    def _advance(self, admission: Admission, now_ms: int) -> int:
        """Advances both windows to the current time, which never goes back for them, and returns it."""
        windows = [
            self._windows.setdefault((admission.tenant_id, subject), Window()) for subject in (admission.key_id, None)
        ]
        for window in windows:
            window.clear_if_out_of_range(now_ms)
        at_ms = max(now_ms, *(window.last_ms for window in windows))
        for window in windows:
            window.drop(at_ms)
        return at_ms

    def _subject_states(self, admission: Admission, now_ms: int) -> tuple[SubjectState, SubjectState]:
        tenant, starts = self._tenants[admission.tenant_id], periods.starts(periods.at(now_ms))

        def subject_state(subject: Subject, limits: Limits, budgets: Budgets) -> SubjectState:
            return SubjectState(
                limits,
                periods.limits(budgets),
                self._windows[admission.tenant_id, subject],
                {period: tenant.used[subject, period, start] for period, start in starts.items()},
                {period: tenant.held[subject, period, start] for period, start in starts.items()},
                tenant.in_flight[subject],
            )

        return (
            subject_state(admission.key_id, admission.key_limits, admission.key_budgets),
            subject_state(None, admission.tenant_limits, admission.tenant_budgets),
        )

    async def renew_all(self, running: Sequence[tuple[Hold, Progress]]) -> list[bool | StoreUnavailable]:
        """See the port."""
        return [self._renew(hold, progress) for hold, progress in running]

    def _renew(self, hold: Hold, progress: Progress) -> bool:
        if (held := self._holds.get(hold.request_id)) is None:
            if self._end(hold.request_id):
                return False
            held = self._holds[hold.request_id] = _Held(hold, None, None, 0, progress)
            if tenant := self._tenants.get(hold.tenant_id):
                tenant.add_hold(hold)
        held.deadline_ms = self._now_ms() + self._lease_ms
        held.progress = progress
        return True

    async def settle(self, entry: Entry, *, only_if_expired: bool = False) -> bool:
        """See the port."""
        if entry.tenant_id is None or entry.key_id is None:
            raise ValueError("an admitted request has a tenant and a key")
        held = self._holds.get(entry.request_id)
        if only_if_expired and (held is None or held.deadline_ms > self._now_ms()):
            return False
        if self._end(entry.request_id) not in (None, _End.REPORTED):
            return False
        tokens = entry.input_tokens + entry.output_tokens
        if held:
            self._end_hold(held, 0, tokens)
            self._learn(held, entry)
        if tenant := self._tenants.get(entry.tenant_id):
            tenant.add_usage(entry.key_id, entry.ts_ms, tokens)
        self._rebuilds.pop(entry.tenant_id, None)
        self._finish(entry.request_id, _End.SETTLED, SETTLED_MS)
        self._stream.append(entry.to_json(), entry.tenant_id)
        return True

    async def release(self, request_id: str, tenant_id: int, key_id: int) -> bool:  # noqa: ARG002 (part of a key in Redis)
        """See the port."""
        if self._end(request_id):
            return False
        held = self._holds.get(request_id)
        report = held.report if held else None
        self._finish(request_id, _End.RECORDED if report else _End.RELEASED, RELEASED_MS)
        if held:
            self._end_hold(held, -1, 0)
        if report:
            self._stream.append(report.to_json(), None)
        return held is not None

    async def record(self, entry: Entry, *, admission_unknown: bool = False) -> None:  # noqa: ARG002 (one shard)
        """See the port."""
        held = self._holds.get(entry.request_id)
        if self._end(entry.request_id) in (_End.SETTLED, _End.RECORDED, _End.REPORTED):
            return
        if held and held.hold.tenant_id != entry.tenant_id:
            if entry.tenant_id is None:
                held.report = entry
            return
        if len(self._stream) >= 2 * self._backlog_max:
            raise Denied(Code.AUDIT_BACKLOG)
        self._stream.append(entry.to_json(), entry.tenant_id)
        end = _End.REPORTED if entry.tenant_id is None else _End.RECORDED
        self._finish(entry.request_id, end, RELEASED_MS)
        if held:
            self._end_hold(held, -1, 0)

    async def held(self, request_id: str) -> Hold | None:
        """See the port."""
        held = self._holds.get(request_id)
        return held.hold if held else None

    async def expired(self, limit: int) -> list[ExpiredHold]:
        """See the port."""
        past = [held for held in self._holds.values() if held.deadline_ms <= self._now_ms()]
        past.sort(key=lambda held: (held.deadline_ms, held.hold.request_id))
        return [ExpiredHold(held.hold, held.progress) for held in past[:limit]]

    async def counters(self, tenant_id: int) -> Counters | None:
        """See the port."""
        if not self._is_ready(tenant_id):
            return None
        tenant, starts = self._tenants[tenant_id], periods.starts(periods.at(self._now_ms()))
        return Counters(
            {(s, p): n for (s, p, start), n in tenant.used.items() if n and starts[p] == start},
            {(s, p): n for (s, p, start), n in tenant.held.items() if n and starts[p] == start},
            {subject: n for subject, n in tenant.in_flight.items() if n},
        )

    async def invalidate_counters(self, tenant_id: int) -> None:
        """See the port."""
        self._tenants.pop(tenant_id, None)
        self._rebuilds.pop(tenant_id, None)

    async def epoch(self) -> Epoch:
        """See the port."""
        now_ms = self._now_ms()
        if self._since_ms is None:
            self._since_ms = now_ms
        left_ms = 0 if now_ms < self._since_ms else max(0, self._since_ms + self._restore_ms - now_ms)
        return Epoch(str(self._since_ms), left_ms / 1000)

    async def watermark(self) -> Watermark:
        """See the port."""
        return Watermark((await self.epoch()).name, (self._stream.oldest,), (self._stream.youngest,))

    async def backlog(self) -> Backlog:
        """See the port."""
        return Backlog(len(self._holds), len(self._stream))

    async def aclose(self) -> None:
        """See the port."""
        await self._rebuilder.aclose()

    async def begin_rebuild(self, tenant_id: int) -> BegunRebuild | NotBegun:
        """See `Rebuildable`."""
        if self._is_ready(tenant_id):
            return NotBegun.READY
        epoch = await self.epoch()
        if epoch.opens_in_s > 0 or tenant_id in self._rebuilds:
            return NotBegun.BUSY
        token = self._rebuilds[tenant_id] = secrets.token_hex(8)
        return BegunRebuild(token, self._now_ms(), epoch.name)

    async def waiting_events(self, tenant_id: int, begun: BegunRebuild) -> Sequence[str]:  # noqa: ARG002 (Redis' part)
        """See `Rebuildable`."""
        return self._stream.texts(tenant_id)

    async def commit_rebuild(self, tenant_id: int, begun: BegunRebuild, used: Used) -> bool:
        """See `Rebuildable`. It counts the holds anew, while Redis changes their sums with each hold."""
        if self._rebuilds.get(tenant_id) != begun.token:
            return False
        tenant = self._tenants[tenant_id] = TenantCounters(periods.at(begun.now_ms).date(), Counter(used))
        for held in self._holds.values():
            if held.hold.tenant_id == tenant_id:
                tenant.add_hold(held.hold)
        del self._rebuilds[tenant_id]
        return True

    async def abort_rebuild(self, tenant_id: int, begun: BegunRebuild) -> None:
        """See `Rebuildable`."""
        if self._rebuilds.get(tenant_id) == begun.token:
            del self._rebuilds[tenant_id]

    def _learn(self, held: _Held, entry: Entry) -> None:
        if held.estimate is None or entry.usage_source is not UsageSource.EXACT:
            return
        model, estimate = held.estimate
        subject = held.hold.tenant_id, model
        if learned := learn(self._calibrations.get(subject), estimate, entry.input_tokens):
            self._calibrations[subject] = learned

    def _end_hold(self, held: _Held, requests: int, tokens: int) -> None:
        """Deletes the hold. Changes the requests of its window buckets by `requests`, and their tokens to `tokens`."""
        hold = held.hold
        del self._holds[hold.request_id]
        if tenant := self._tenants.get(hold.tenant_id):
            tenant.remove_hold(hold)
        for subject in (None, hold.key_id):
            window = self._windows.get((hold.tenant_id, subject))
            if window and held.second is not None:
                window.adjust(held.second, requests, tokens - hold.input_tokens - hold.output_cap)

    def _is_ready(self, tenant_id: int) -> bool:
        """Counters are not valid after the clock went back over midnight: those of that day may be pruned."""
        tenant = self._tenants.get(tenant_id)
        return tenant is not None and tenant.day <= periods.at(self._now_ms()).date()

    def _end(self, request_id: str) -> _End | None:
        end, until_ms = self._finished.get(request_id, (None, 0))
        return end if until_ms > self._now_ms() else None

    def _finish(self, request_id: str, end: _End, ttl_ms: int) -> None:
        now_ms = self._now_ms()
        for each in [each for each, (_, until_ms) in self._finished.items() if until_ms <= now_ms]:
            del self._finished[each]
        self._finished[request_id] = end, now_ms + ttl_ms
