"""The outbox: carries entries from the process that made them to the ledger, whatever fails meanwhile.

The end of a request waits for a store only for a moment. Its entry goes into a bounded buffer, and a few workers submit
it to the quota until the quota has accepted it. The outbox then retains the entry until PostgreSQL has it, and
resubmits it when the quota's store may have lost it. Resubmission is idempotent.

Settlements and denials have separate lanes, so that no settlement waits for a denial. A denial that finds no capacity,
in its lane or in the quota's backlog, is dropped and counted; a settlement is never dropped. Denials that the quota had
accepted and may have lost have a third lane, because they may be many at once, and none of them is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial

import structlog

from gateway.errors import Denied, StoreUnavailable
from gateway.loops import forever, retry
from gateway.metrics import outbox as metrics
from gateway.quota.port import Quota, Watermark
from gateway.record.entry import Entry
from gateway.values import Outcome

log = structlog.get_logger()

SETTLEMENT_WORKERS = 8
DENIAL_WORKERS = 4
CONFIRM_EVERY_S = 2.0
# Oldest entries are dropped beyond this; they are still in Redis, so both copies would have to be lost.
UNCONFIRMED_MAX = 10_000


@dataclass(slots=True)
class _Unconfirmed:
    """An entry that the quota accepted.

    `epoch` is the one that was known before the call. `watermark` was read after the call, in the same epoch, so it
    covers the event of the entry.
    """

    entry: Entry
    epoch: str | None
    watermark: Watermark | None = None


class Outbox:
    """`submit` never waits and never fails. Callers check `full` before a request begins.

    `admission_unknown` means that a denial may concern a request that was admitted, see `Quota.record`.
    `settlements_max` bounds the settlements that wait, by way of `full`, and `denials_max` the denials that wait.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        settlements_max: int,
        denials_max: int,
        admission_unknown: bool = False,
        confirm_every_s: float = CONFIRM_EVERY_S,
    ) -> None:
        self._quota = quota
        self._settlements_max = settlements_max
        self._denials_max = denials_max
        self._admission_unknown = admission_unknown
        self._confirm_every_s = confirm_every_s
        self._settlements = _Lane(self._settle, SETTLEMENT_WORKERS)
        self._denials = _Lane(self._record, DENIAL_WORKERS)
        self._accepted_denials = _Lane(self._record_again, DENIAL_WORKERS)
        self._lanes = (self._settlements, self._denials, self._accepted_denials)
        self._unconfirmed: dict[str, _Unconfirmed] = {}
        self._epoch: str | None = None
        self.denials_dropped = 0
        for name, lane in (
            ("settlements", self._settlements),
            ("denials", self._denials),
            ("accepted_denials", self._accepted_denials),
        ):
            metrics.PENDING.labels(name).set_function(partial(getattr, lane, "pending"))
        metrics.UNCONFIRMED.set_function(lambda: len(self._unconfirmed))

    @property
    def full(self) -> bool:
        """Whether `settlements_max` settlements wait, so that no new request may begin."""
        return self._settlements.pending >= self._settlements_max

    @property
    def unconfirmed(self) -> Collection[str]:
        """The request ids of the entries that are retained until the ledger has them."""
        return self._unconfirmed.keys()

    def submit(self, entry: Entry) -> None:
        """Accepts an entry. Settlements are bounded by the requests that began before the outbox was full."""
        if entry.outcome is not Outcome.DENIED:
            self._settlements.add(entry)
        elif self._denials.pending < self._denials_max:
            self._denials.add(entry)
        else:
            self._drop(entry)

    async def submit_denial(self, entry: Entry, wait_s: float) -> None:
        """Submits a denial, and returns when the quota has it or after `wait_s`."""
        if self._denials.pending >= self._denials_max:
            self._drop(entry)
            return
        await asyncio.wait((self._denials.add(entry),), timeout=wait_s)

    def settle(self, entry: Entry) -> asyncio.Future[None]:
        """Submits a settlement. The future is done when the quota has accepted it."""
        return self._settlements.add(entry)

    async def record(self, entry: Entry) -> None:
        """Stores a denial in the quota now, and retains it. Raises Denied(audit_backlog) or StoreUnavailable."""
        epoch = self._epoch
        await self._quota.record(entry, admission_unknown=self._admission_unknown)
        self._retain(entry, epoch)

    def resubmit_unconfirmed(self) -> None:
        """Submits every unconfirmed entry again, because the quota's store may have lost it."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for each in unconfirmed.values():
            self._resubmit(each.entry)

    async def run(self) -> None:
        """Submits entries to the quota and confirms them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(self._confirm, self._confirm_every_s, on_error="entries_unconfirmed"))
            for lane in self._lanes:
                tasks.create_task(lane.run())

    async def wait_idle(self, timeout_s: float) -> int:
        """Waits until the quota has accepted everything, at most `timeout_s`; returns how many entries are left."""
        try:
            async with asyncio.timeout(timeout_s):
                for lane in self._lanes:
                    await lane.wait_idle()
        except TimeoutError:
            denials = self._denials.pending + self._accepted_denials.pending
            log.error("entries_unsettled", settlements=self._settlements.pending, denials=denials)
        return sum(lane.pending for lane in self._lanes)

    async def _settle(self, entry: Entry) -> None:
        epoch = self._epoch
        if not await self._quota.settle(entry):
            log.info("settled_before", request_id=entry.request_id)
        self._retain(entry, epoch)

    async def _record(self, entry: Entry) -> None:
        try:
            await self.record(entry)
        except Denied:
            self._drop(entry)

    async def _record_again(self, entry: Entry) -> None:
        """Records a denial that was accepted before. A full backlog is as transient as an unavailable quota."""
        try:
            await self.record(entry)
        except Denied as error:
            raise StoreUnavailable("the backlog is full") from error

    def _resubmit(self, entry: Entry) -> None:
        lane = self._accepted_denials if entry.outcome is Outcome.DENIED else self._settlements
        lane.add(entry)

    def _retain(self, entry: Entry, epoch: str | None) -> None:
        self._unconfirmed[entry.request_id] = _Unconfirmed(entry, epoch)
        if len(self._unconfirmed) > UNCONFIRMED_MAX:
            del self._unconfirmed[next(iter(self._unconfirmed))]

    def _drop(self, entry: Entry) -> None:
        self.denials_dropped += 1
        metrics.DENIALS_DROPPED.inc()
        log.warning("denial_not_recorded", request_id=entry.request_id, code=entry.code, dropped=self.denials_dropped)

    async def _confirm(self) -> None:
        """Drops the entries whose events have left the stream, and resubmits those of another epoch.

        An event leaves the stream only when the ledger has it, so one call per shard answers for all entries. They are
        listed before that call: the event of an entry that is accepted meanwhile may be after the watermark.
        """
        accepted = list(self._unconfirmed.items())
        now = await self._quota.watermark()
        self._epoch = now.epoch
        for request_id, each in accepted:
            if self._unconfirmed.get(request_id) is not each:
                continue
            if each.epoch != now.epoch:
                del self._unconfirmed[request_id]
                self._resubmit(each.entry)
            elif now.has_passed(each.watermark or now):
                del self._unconfirmed[request_id]
            else:
                each.watermark = each.watermark or now


class _Lane:
    """Entries that wait for one kind of call, and the workers that make it."""

    def __init__(self, store: Callable[[Entry], Awaitable[None]], workers: int) -> None:
        self._store = store
        self._workers = workers
        self._waiting: deque[tuple[Entry, asyncio.Future[None]]] = deque()
        self._added = asyncio.Semaphore(0)
        self._idle = asyncio.Event()
        self._idle.set()
        self.pending = 0

    def add(self, entry: Entry) -> asyncio.Future[None]:
        """Queues an entry. The future is done when it is stored."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, stored))
        self.pending += 1
        self._idle.clear()
        self._added.release()
        return stored

    async def run(self) -> None:
        """Makes the calls until cancelled; while the store is unavailable the entries wait."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._work())

    async def wait_idle(self) -> None:
        """Returns when no entry waits or is being stored."""
        await self._idle.wait()

    async def _work(self) -> None:
        # Not `forever`: a worker waits for an entry and not for time, and retries that entry only.
        while True:
            await self._added.acquire()
            entry, stored = self._waiting.popleft()
            await retry(partial(self._store, entry), on_error="entry_postponed", request_id=entry.request_id)
            stored.set_result(None)
            self.pending -= 1
            if not self.pending:
                self._idle.set()
