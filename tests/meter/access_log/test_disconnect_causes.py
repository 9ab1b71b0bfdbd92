"""The cause of an answer that broke off, and the request that waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import structlog

from gateway.quota.port import Hold
from gateway.record.entry import Entry
from gateway.values import Outcome
from meter.access_log.disconnect_causes import DisconnectCauses
from tests.gateway.quota.builders import entry
from tests.polling import eventually_async

LEFT = replace(entry(Hold("broken", 1, 11, 0, 10, 90, ""), output_tokens=3), outcome=Outcome.CLIENT_GONE)
DIED = replace(LEFT, outcome=Outcome.UPSTREAM_ERROR, code="backend_error")


class Meter:
    """The causes of one process, with what it submitted, published and stopped renewing."""

    def __init__(self, wait_s: float = 60, wait_max_s: float = 60) -> None:
        self.entries: list[Entry] = []
        self.published: list[tuple[str, bool]] = []
        self.final: list[str] = []
        self.causes = DisconnectCauses(
            self.entries.append, lambda *cause: self.published.append(cause), wait_s=wait_s, wait_max_s=wait_max_s
        )

    def settle(self, left: Entry) -> None:
        self.causes.settle(left, lambda: self.final.append(left.request_id))


@pytest.mark.parametrize("by_upstream", [True, False])
@pytest.mark.parametrize("is_early", [True, False])
async def test_a_cause_may_arrive_before_or_after_the_end_of_its_request(is_early: bool, by_upstream: bool) -> None:
    meter = Meter()
    meter.causes.register("broken")
    if is_early:
        assert meter.causes.note("broken", by_upstream)
        assert meter.final == []
    meter.settle(LEFT)
    if not is_early:
        assert meter.final == []
        assert meter.causes.note("broken", by_upstream)
    assert (meter.entries, meter.final, meter.published) == ([DIED if by_upstream else LEFT], ["broken"], [])


async def test_a_cause_of_another_process_is_published() -> None:
    meter = Meter()
    meter.causes.register("broken")
    meter.causes.discard("broken")
    assert not meter.causes.note("broken", by_upstream=True)
    assert not meter.causes.resolve("other", by_upstream=False)
    assert meter.published == [("broken", True)]


async def test_an_entry_becomes_final_once() -> None:
    meter = Meter()
    meter.settle(LEFT)
    assert meter.causes.resolve("broken", by_upstream=True)
    assert not meter.causes.resolve("broken", by_upstream=False)
    meter.causes.close()
    assert (meter.entries, meter.final) == ([DIED], ["broken"])


async def test_without_a_cause_the_caller_is_presumed_and_the_case_is_counted() -> None:
    meter = Meter(wait_s=0.01)
    with structlog.testing.capture_logs() as logs:
        meter.settle(LEFT)
        await eventually_async(lambda: meter.entries == [LEFT])
    assert meter.final == ["broken"]
    assert [(each["event"], each["request_id"], each["unknown"]) for each in logs] == [("cause_unknown", "broken", 1)]
    assert meter.causes.unknown == 1


class Clock:
    """The clock of the running event loop, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_s = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self._now_s)

    async def jump(self, seconds: float) -> None:
        """Moves it at once, as in a process that had no CPU. Then the timers that are due run."""
        self._now_s += seconds
        for _ in range(2):
            await asyncio.sleep(0)

    async def forward(self, seconds: float) -> None:
        """Moves it in steps of 0.5 s."""
        for _ in range(round(seconds / 0.5)):
            await self.jump(0.5)


async def test_a_request_waits_longer_while_other_causes_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(monkeypatch), Meter(wait_s=5, wait_max_s=60)
    meter.settle(LEFT)
    for _ in range(3):
        await clock.forward(4)
        meter.causes.resolve("other", by_upstream=False)
    await clock.forward(4)
    assert meter.entries == []
    assert meter.causes.resolve("broken", by_upstream=True)
    assert (meter.entries, meter.causes.unknown) == ([DIED], 0)


async def test_a_request_waits_no_longer_when_no_cause_arrives_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(monkeypatch), Meter(wait_s=5, wait_max_s=60)
    meter.settle(LEFT)
    await clock.forward(4)
    meter.causes.resolve("other", by_upstream=False)
    await clock.forward(4)
    assert meter.entries == []
    await clock.forward(1)
    assert (meter.entries, meter.causes.unknown) == ([LEFT], 1)


async def test_the_time_in_which_a_process_had_no_cpu_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(monkeypatch), Meter(wait_s=5, wait_max_s=60)
    meter.settle(LEFT)
    for _ in range(9):
        await clock.jump(20)
    assert meter.entries == []
    await clock.jump(20)
    assert (meter.entries, meter.causes.unknown) == ([LEFT], 1)


async def test_the_wait_for_a_cause_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(monkeypatch), Meter(wait_s=5, wait_max_s=12)
    meter.settle(LEFT)
    for _ in range(3):
        assert meter.entries == []
        meter.causes.resolve("other", by_upstream=False)
        await clock.forward(4)
    assert (meter.entries, meter.causes.unknown) == ([LEFT], 1)


async def test_a_meter_that_stops_does_not_wait_for_causes() -> None:
    meter = Meter()
    meter.settle(LEFT)
    await asyncio.sleep(0)
    meter.causes.close()
    assert (meter.entries, meter.final, meter.causes.unknown) == ([LEFT], ["broken"], 0)
