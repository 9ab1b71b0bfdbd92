"""Every interleaving of operations keeps the invariants, and both implementations answer identically at every step.

The state of the test is minimal: the running requests and the settled entries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.errors import Code, Denied
from gateway.quota import periods
from gateway.quota.port import (
    RELEASED_MS,
    SETTLED_MS,
    Admission,
    Backlog,
    Counters,
    Hold,
    Progress,
    Quota,
    ReservationDenied,
    Reserved,
    Watermark,
)
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Entry
from gateway.stores.redis import Redis, connect
from gateway.values import Budgets, Limits, Outcome
from tests.gateway.quota.builders import Clock, Ledger, again, asks, denial, drain, entry, hold_of, renew, settings_for
from tests.gateway.quota.model.quota import MemoryQuota

LEASE_S = 15.0
BACKLOG_MAX = 9
RUNNING_MAX = 8
T = TypeVar("T")

limits = st.builds(Limits, rpm=st.integers(1, 6), tpm=st.integers(20, 300), concurrent=st.integers(1, 6))
budget = st.none() | st.integers(0, 400)
budgets = st.builds(Budgets, day=budget, month=budget, total=budget)


@dataclass
class Finished:
    """A request that ended, and until when the store must remember it."""

    hold: Hold
    recorded: bool
    until_ms: int


@dataclass(frozen=True)
class Look:
    """What a quota says of itself after a step."""

    counters: dict[int, Counters | None]
    backlog: Backlog
    watermark: Watermark | None


async def look(quota: Quota, *, watermark: bool) -> Look:
    """Asks Redis for all at once, so that the commands go out together. Tasks would cost memory more than they save."""
    if isinstance(quota, RedisQuota):
        first, second, backlog = await asyncio.gather(quota.counters(1), quota.counters(2), quota.backlog())
    else:
        first, second, backlog = await quota.counters(1), await quota.counters(2), await quota.backlog()
    return Look({1: first, 2: second}, backlog, await quota.watermark() if watermark else None)


class QuotaMachine(RuleBasedStateMachine):
    """Drives the quota in memory, and the one in Redis too when `redis_url` is set."""

    redis_url: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.ledgers = [Ledger()]
        self.memory = MemoryQuota(
            now_ms=self.clock,
            lease_s=LEASE_S,
            backlog_max=BACKLOG_MAX,
            load=self.ledgers[0].load,
            restore_s=0,
            running_max=RUNNING_MAX,
        )
        self.quotas: list[Quota] = [self.memory]
        self.redis: Redis | None = None
        self.running: dict[str, Hold] = {}
        self.held: dict[str, Hold] = {}
        # The requests whose hold keeps Envoy's report that they failed.
        self.reported: set[str] = set()
        self.finished: list[Finished] = []
        self.settled: dict[str, Hold] = {}
        self.lost: dict[str, Hold] = {}
        self.waiting: dict[str, Entry] = {}
        self.denials = 0
        self.clock_went_back = False
        self.noted: tuple[list[Watermark], set[str]] | None = None
        if self.redis_url:
            self.loop.run_until_complete(self._with_redis(self.redis_url))

    async def _with_redis(self, url: str) -> None:
        chosen = settings_for(url, LEASE_S, BACKLOG_MAX, RUNNING_MAX)
        self.redis = connect(chosen)
        await self.redis.flushall()
        self.ledgers.append(Ledger())
        self.quotas.append(
            RedisQuota(self.redis, chosen, self.ledgers[1].load, clock=self.clock, restore_s=0, rebuild_wait_s=30)
        )

    def teardown(self) -> None:
        for hold in list(self.running.values()):
            self._settle(hold, 0, 0)
        self.drain(acknowledge=True)
        self.inherit()
        assert self.each(lambda quota: quota.backlog()) == Backlog(0, 0)
        for tenant in (1, 2):
            counters = self.each(lambda quota, tenant=tenant: quota.counters(tenant))  # type: ignore[misc]
            assert counters is None or (counters.held, counters.in_flight) == ({}, {})
        self.loop.run_until_complete(self._close())
        self.loop.close()

    async def _close(self) -> None:
        for quota in self.quotas:
            await quota.aclose()
        if self.redis:
            await self.redis.aclose()

    def each(self, call: Callable[[Quota], Awaitable[T]]) -> T:
        """The answer of all implementations, which must be identical."""

        async def one(quota: Quota) -> T | Code:
            try:
                return await call(quota)
            except Denied as denied:
                return denied.code

        async def all_answers() -> list[T | Code]:
            return [await one(quota) for quota in self.quotas]

        answers = self.loop.run_until_complete(all_answers())
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]  # type: ignore[return-value]  # only `record` is denied, and its caller knows

    @initialize(data=st.data())
    def draw_policy(self, data: st.DataObject) -> None:
        self.limits = {who: data.draw(limits) for who in ("t1", "t2", 11, 12, 21)}
        self.budgets = {who: data.draw(budgets) for who in ("t1", "t2", 11, 12, 21)}

    @rule(
        key=st.sampled_from([11, 12, 21]),
        model=st.sampled_from(["small", "large"]),
        input_tokens=st.integers(0, 40),
        output=st.integers(0, 60),
        patient=st.booleans(),
    )
    def admit(self, key: int, model: str, input_tokens: int, output: int, patient: bool) -> None:
        tenant = key // 10
        admission = asks(
            tenant=tenant,
            key=key,
            limits=self.limits[key],
            tenant_limits=self.limits[f"t{tenant}"],
            budgets=self.budgets[key],
            tenant_budgets=self.budgets[f"t{tenant}"],
            model=model,
            input_tokens=input_tokens,
            output=output,
        )
        answer = self.each(lambda quota: quota.admit(admission))
        if patient and isinstance(answer, ReservationDenied) and answer.retry_after_s is not None:
            assert answer.retry_after_s >= 1
            self._forward(answer.retry_after_s)
            admission = again(admission)
            answer = self.each(lambda quota: quota.admit(admission))
            # After the clock went back, some usage is in the next period of a budget already.
            assert isinstance(answer, Reserved) or self.clock_went_back, answer
        events = len(self.waiting) + self.denials
        if isinstance(answer, ReservationDenied):
            assert (answer.code == Code.AUDIT_BACKLOG) == (events >= BACKLOG_MAX)
            assert (answer.code == Code.UNAVAILABLE) == (events < BACKLOG_MAX and len(self.held) >= RUNNING_MAX)
            return
        assert events < BACKLOG_MAX
        assert len(self.held) < RUNNING_MAX
        self._admitted(admission, answer)

    def _admitted(self, admission: Admission, answer: Reserved) -> None:
        hold = hold_of(admission, answer)
        assert min(1, admission.requested_output_tokens) <= hold.output_cap <= admission.requested_output_tokens
        self.running[hold.request_id] = self.held[hold.request_id] = hold
        counters = self.each(lambda quota: quota.counters(hold.tenant_id))
        assert counters is not None
        for who, subject in ((None, f"t{hold.tenant_id}"), (hold.key_id, hold.key_id)):
            assert counters.in_flight[who] <= self.limits[subject].concurrent
            for period, limit in periods.limits(self.budgets[subject]).items():
                assert counters.used.get((who, period), 0) + counters.held.get((who, period), 0) <= limit

    @precondition(lambda self: self.running)
    @rule(data=st.data(), input_tokens=st.integers(0, 40))
    def settle(self, data: st.DataObject, input_tokens: int) -> None:
        hold = self._one_running(data)
        self._settle(hold, input_tokens, data.draw(st.integers(0, hold.output_cap)))

    def _settle(self, hold: Hold, input_tokens: int, output_tokens: int) -> None:
        settled = entry(hold, input_tokens=input_tokens, output_tokens=output_tokens)
        assert self.each(lambda quota: quota.settle(settled))
        self._finish(settled, hold)

    def _finish(self, settled: Entry, hold: Hold) -> None:
        self.waiting[hold.request_id] = settled
        self.settled[hold.request_id] = hold
        self.running.pop(hold.request_id, None)
        self.held.pop(hold.request_id, None)
        self.reported.discard(hold.request_id)
        self.finished.append(Finished(hold, True, self.clock.now_ms + SETTLED_MS))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        hold = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        assert self.each(lambda quota: quota.release(hold.request_id, hold.tenant_id, hold.key_id))
        self._released(hold)

    def _released(self, hold: Hold) -> None:
        del self.held[hold.request_id]
        self.running.pop(hold.request_id, None)
        is_reported = hold.request_id in self.reported
        self.reported.discard(hold.request_id)
        self.denials += is_reported
        self.finished.append(Finished(hold, is_reported, self.clock.now_ms + RELEASED_MS))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), output_tokens=st.integers(0, 9))
    def renew(self, data: st.DataObject, output_tokens: int) -> None:
        """Running requests of several tenants and finished ones in one call."""
        running = data.draw(st.lists(st.sampled_from(sorted(self.running)), min_size=1, unique=True))
        finished = [each.hold for each in self.finished[-3:]]
        holds = [*(self.running[request_id] for request_id in running), *finished]
        renewals = [(hold, Progress(output_tokens=output_tokens + index)) for index, hold in enumerate(holds)]
        replies = self.each(lambda quota: quota.renew_all(renewals))
        assert replies == [True] * len(running) + [False] * len(finished)
        self.held |= {request_id: self.running[request_id] for request_id in running}

    @rule(data=st.data())
    def finished_requests_stay_finished(self, data: st.DataObject) -> None:
        if self.finished:
            each = data.draw(st.sampled_from(self.finished))
            hold = each.hold
            assert not self.each(lambda quota: quota.settle(entry(hold, output_tokens=9)))
            assert not self.each(lambda quota: renew(quota, hold))
            assert not self.each(lambda quota: quota.release(hold.request_id, hold.tenant_id, hold.key_id))
            if each.recorded:
                # A repeated denial, or a denial of a settled request, appends no second event.
                denied = entry(hold, input_tokens=0, outcome=Outcome.DENIED)
                assert self.each(lambda quota: quota.record(denied)) is None

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), output_tokens=st.integers(0, 9), reported=st.booleans())
    def a_lost_settlement_is_resubmitted(self, data: st.DataObject, output_tokens: int, reported: bool) -> None:
        """By a process that got no reply to the first settlement, or by the reaper.

        Envoy's report that the request failed may arrive before it.
        """
        hold = self.lost.pop(data.draw(st.sampled_from(sorted(self.lost))))
        if reported and len(self.waiting) + self.denials < 2 * BACKLOG_MAX:
            report = replace(entry(hold, outcome=Outcome.DENIED), tenant_id=None, key_id=None)
            assert self.each(lambda quota: quota.record(report)) is None
            self.denials += 1
        # By then the counters are rebuilt: by an admission that is denied.
        too_much = asks(tenant=hold.tenant_id, key=hold.key_id, limits=Limits(rpm=1, tpm=1, concurrent=1))
        assert isinstance(self.each(lambda quota: quota.admit(too_much)), ReservationDenied)
        self._settle(hold, 0, output_tokens)
        self.drain(acknowledge=True)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), end=st.sampled_from(["settle", "release", "renew"]), drained=st.booleans())
    def a_request_changes_during_a_rebuild(self, data: st.DataObject, end: str, drained: bool) -> None:
        hold = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        settled = entry(hold, input_tokens=1, output_tokens=data.draw(st.integers(0, 9)))

        async def change(quota: Quota, ledger: Ledger) -> None:
            if end == "settle":
                assert await quota.settle(settled)
            elif end == "release":
                assert await quota.release(hold.request_id, hold.tenant_id, hold.key_id)
            else:
                assert await renew(quota, hold)
            if drained:
                await drain(quota, ledger)

        for quota, ledger in zip(self.quotas, self.ledgers, strict=True):
            self.loop.run_until_complete(quota.invalidate_counters(hold.tenant_id))
            ledger.meanwhile = partial(change, quota, ledger)
        denied = asks(tenant=hold.tenant_id, key=hold.key_id, limits=Limits(rpm=1, tpm=1, concurrent=1))
        assert isinstance(self.each(lambda quota: quota.admit(denied)), ReservationDenied)
        if end == "settle":
            self._finish(settled, hold)
        elif end == "release":
            self._released(hold)
        if drained:
            self.inherit()

    @rule()
    def reap(self) -> None:
        for lost in self.each(lambda quota: quota.expired(100)):
            settled = entry(lost.hold, output_tokens=lost.progress.output_tokens, outcome=Outcome.LOST)
            assert self.held[lost.hold.request_id] == lost.hold
            assert self.each(lambda quota, it=settled: quota.settle(it, only_if_expired=True))  # type: ignore[misc]
            self._finish(settled, lost.hold)

    @rule()
    def deny(self) -> None:
        denied = denial()
        full = len(self.waiting) + self.denials >= 2 * BACKLOG_MAX
        assert self.each(lambda quota: quota.record(denied)) == (Code.AUDIT_BACKLOG if full else None)
        self.denials += not full

    @precondition(lambda self: self.held)
    @rule(data=st.data(), knows_the_tenant=st.booleans(), admission_unknown=st.booleans())
    def deny_what_may_have_been_admitted(
        self, data: st.DataObject, knows_the_tenant: bool, admission_unknown: bool
    ) -> None:
        hold = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        denied = entry(hold, input_tokens=0, outcome=Outcome.DENIED)
        if not knows_the_tenant:
            anonymous = replace(denied, tenant_id=None, key_id=None)
            assert self.each(lambda quota: quota.record(anonymous, admission_unknown=admission_unknown)) is None
            self.reported.add(hold.request_id)
            return
        if len(self.waiting) + self.denials >= 2 * BACKLOG_MAX:
            assert self.each(lambda quota: quota.record(denied)) == Code.AUDIT_BACKLOG
            return
        assert self.each(lambda quota: quota.record(denied)) is None
        del self.held[hold.request_id]
        self.running.pop(hold.request_id, None)
        self.reported.discard(hold.request_id)
        self.denials += 1
        self.finished.append(Finished(hold, True, self.clock.now_ms + RELEASED_MS))

    @rule(acknowledge=st.booleans())
    def drain(self, acknowledge: bool) -> None:
        for quota, ledger in zip(self.quotas, self.ledgers, strict=True):
            self.loop.run_until_complete(drain(quota, ledger, acknowledge=acknowledge))
        if acknowledge:
            self.inherit()

    @rule()
    def inherit(self) -> None:
        """Another drain claims all unacknowledged events and appends them again."""

        async def one(quota: Quota, ledger: Ledger) -> None:
            await drain(quota, ledger)
            [stream] = quota.streams
            while left := await stream.claim("heir", 100, 0):
                for tenant_id in ledger.append(left):
                    await quota.invalidate_counters(tenant_id)
                await stream.acknowledge([event.id for event in left])

        for quota, ledger in zip(self.quotas, self.ledgers, strict=True):
            self.loop.run_until_complete(one(quota, ledger))
        self.waiting.clear()
        self.denials = 0

    @rule()
    def note_watermark(self) -> None:
        self.noted = self._watermarks(), set(self.waiting)

    def _watermarks(self) -> list[Watermark]:
        async def all_watermarks() -> list[Watermark]:
            return [await quota.watermark() for quota in self.quotas]

        return self.loop.run_until_complete(all_watermarks())

    @rule(seconds=st.sampled_from([0.001, 0.4, 1, 7, 14, 29, 31, 59.999, 3600, 43_200, 86_400, 30 * 86_400]))
    def later(self, seconds: float) -> None:
        self._forward(seconds)

    def _forward(self, seconds: float) -> None:
        self.clock.forward(seconds)
        self.finished = [each for each in self.finished if each.until_ms > self.clock.now_ms]

    @rule(seconds=st.sampled_from([0.5, 3, 61, 3_600, 86_400]))
    def the_clock_goes_back(self, seconds: float) -> None:
        self.clock.forward(-seconds)
        self.clock_went_back = True

    @rule()
    def everything_is_lost(self) -> None:
        self.memory.lose_everything()
        if self.redis:
            self.loop.run_until_complete(self.redis.flushall())
        # Events that were not drained are lost with the store, and so are the remembered request ids.
        self.noted = None
        self.held.clear()
        self.reported.clear()
        self.waiting.clear()
        self.finished.clear()
        self.lost |= self.settled
        self.settled.clear()
        self.denials = 0

    def _one_running(self, data: st.DataObject) -> Hold:
        return self.running[data.draw(st.sampled_from(sorted(self.running)))]

    @invariant()
    def every_quota_equals_the_ledger_the_stream_and_the_known_holds(self) -> None:
        async def all_looks() -> list[Look]:
            return [await look(quota, watermark=self.noted is not None) for quota in self.quotas]

        looks = self.loop.run_until_complete(all_looks())
        for each in looks:
            for tenant, counters in each.counters.items():
                assert counters == looks[0].counters[tenant]
                if counters:
                    assert counters == self._expected(tenant)
            assert each.backlog == Backlog(len(self.held), len(self.waiting) + self.denials)
        self._no_entry_that_waits_is_below_a_watermark_that_has_passed([each.watermark for each in looks])

    def _no_entry_that_waits_is_below_a_watermark_that_has_passed(self, watermarks: list[Watermark | None]) -> None:
        if self.noted:
            noted, waited = self.noted
            passed = {now.has_passed(then) for now, then in zip(watermarks, noted, strict=True) if now}
            assert len(passed) == 1
            assert passed == {False} or not waited & self.waiting.keys()

    def _expected(self, tenant: int) -> Counters:
        current = periods.starts(periods.at(self.clock.now_ms)).items()
        ledger = Ledger({**self.waiting, **self.ledgers[0].entries})
        used = {(who, p): n for (who, p, start), n in ledger.used(tenant).items() if n and (p, start) in current}
        held: Counter[tuple[int | None, object]] = Counter()
        in_flight: Counter[int | None] = Counter()
        for hold in self.held.values():
            if hold.tenant_id == tenant:
                for who in (None, hold.key_id):
                    in_flight[who] += 1
                    for period, start in periods.starts(periods.at(hold.admitted_at_ms)).items():
                        if (period, start) in current:
                            held[who, period] += hold.input_tokens + hold.output_cap
        return Counters(used, {key: n for key, n in held.items() if n}, dict(in_flight))  # type: ignore[misc]


COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck))


def test_any_interleaving_keeps_the_invariants_in_memory() -> None:
    run_state_machine_as_test(QuotaMachine, settings=settings(COMMON, max_examples=400, stateful_step_count=40))


def test_any_interleaving_keeps_the_invariants_in_redis_with_identical_answers(redis_url: str) -> None:
    machine = type("OnRedis", (QuotaMachine,), {"redis_url": redis_url})
    run_state_machine_as_test(machine, settings=settings(COMMON, max_examples=80, stateful_step_count=40))
