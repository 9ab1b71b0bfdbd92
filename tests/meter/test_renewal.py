"""When the holds of running requests are renewed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import structlog

from gateway.errors import StoreUnavailable
from gateway.quota.port import Hold, Progress
from gateway.wire.surfaces import BY_NAME
from meter.exchange import Exchange
from meter.phases import Phase
from meter.renewal import RENEWALS_PER_LEASE, Renewal
from tests.gateway.quota.builders import Clock, Ledger
from tests.gateway.quota.model.quota import MemoryQuota
from tests.meter.wire_corpus import grant_for, json_of

LEASE_S = 15.0


class Recorder(MemoryQuota):
    """A quota that records the request ids of each call and replies about none of those in `unavailable`."""

    def __init__(self) -> None:
        super().__init__(now_ms=Clock(), lease_s=LEASE_S, backlog_max=1000, load=Ledger().load)
        self.calls: list[list[str]] = []
        self.unavailable: set[str] = set()
        self.progress: dict[str, Progress] = {}

    async def renew_all(self, running: Sequence[tuple[Hold, Progress]]) -> list[bool | StoreUnavailable]:
        if running:
            self.calls.append([hold.request_id for hold, _ in running])
        renewed = await super().renew_all(running)
        self.progress |= {hold.request_id: progress for hold, progress in running}
        return [
            StoreUnavailable("unavailable") if hold.request_id in self.unavailable else reply
            for (hold, _), reply in zip(running, renewed, strict=True)
        ]


class Meter:
    """A renewal whose time a test moves, over running streams."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.quota = Recorder()
        self.renewal = Renewal(self.quota, LEASE_S, monotonic=lambda: self.now_s)

    def stream(self, request_id: str) -> Exchange:
        grant = grant_for(BY_NAME["chat"], request_id=request_id, stream=True)
        exchange = Exchange(grant, json_of(grant), lambda: self.now_s)
        exchange.request_body(b"{}")
        exchange.response_headers(200, "application/x-ndjson", None, end_of_stream=False)
        self.renewal.add(exchange)
        return exchange

    async def renewed_after(self, seconds: float) -> list[str]:
        """The request ids that are renewed after this time."""
        self.now_s += seconds
        before = len(self.quota.calls)
        await self.renewal.renew_due()
        return [request_id for call in self.quota.calls[before:] for request_id in call]


@pytest.fixture
def meter() -> Meter:
    return Meter()


def deliver(exchange: Exchange) -> None:
    exchange.response_body(b'{"message":{"role":"assistant","content":"word"},"done":false}\n', False)


async def test_a_stream_that_delivers_is_renewed_each_time_with_its_progress(meter: Meter) -> None:
    exchange = meter.stream("one")
    for _ in range(3):
        deliver(exchange)
        assert await meter.renewed_after(1) == ["one"]
        assert meter.quota.progress["one"] == exchange.progress
    assert exchange.progress.output_tokens == 3


async def test_a_stream_that_delivers_nothing_is_renewed_each_third_of_a_lease(meter: Meter) -> None:
    meter.stream("idle")
    seconds = [second for second in range(1, 16) if await meter.renewed_after(1)]
    assert seconds == [5, 10, 15]
    assert len(meter.quota.calls) == RENEWALS_PER_LEASE


async def test_all_streams_are_renewed_by_one_call(meter: Meter) -> None:
    for exchange in [meter.stream(f"r{number}") for number in range(50)]:
        deliver(exchange)
    meter.stream("idle")
    assert len(await meter.renewed_after(1)) == 50
    assert len(meter.quota.calls) == 1


async def test_a_renewal_without_reply_is_repeated_until_it_succeeds(meter: Meter) -> None:
    meter.stream("one")
    meter.stream("two")
    meter.quota.unavailable = {"one"}
    with structlog.testing.capture_logs() as logs:
        assert await meter.renewed_after(5) == ["one", "two"]
        assert await meter.renewed_after(1) == ["one"]
    assert [(each["event"], each["holds"]) for each in logs] == [("renewal_failed", 1)] * 2
    meter.quota.unavailable = set()
    assert await meter.renewed_after(1) == ["one"]
    assert await meter.renewed_after(1) == []


async def test_after_a_loss_of_the_store_every_hold_is_renewed_once(meter: Meter) -> None:
    meter.stream("one")
    meter.stream("two")
    meter.renewal.at_once()
    assert await meter.renewed_after(0) == ["one", "two"]
    assert await meter.renewed_after(1) == []


async def test_only_the_stream_that_was_settled_elsewhere_is_cut(meter: Meter) -> None:
    settled, running, ended = (meter.stream(name) for name in ("settled", "running", "ended"))
    await meter.quota.release("settled", settled.grant.tenant_id, settled.grant.key_id)
    meter.renewal.discard(ended)
    assert await meter.renewed_after(5) == ["settled", "running"]
    assert (settled.phase, running.phase, ended.phase) == (Phase.CUT, Phase.ANSWERING, Phase.ANSWERING)


async def test_delivered_tokens_include_those_of_running_requests_and_remain_when_they_end(meter: Meter) -> None:
    first, second = meter.stream("first"), meter.stream("second")
    for exchange in (first, second, second):
        deliver(exchange)
    tenant = first.grant.tenant
    assert meter.renewal.delivered_tokens() == {tenant: 3}
    meter.renewal.discard(first)
    meter.renewal.discard(first)
    deliver(second)
    assert meter.renewal.delivered_tokens() == {tenant: 4}
    meter.renewal.add(first)
    assert meter.renewal.delivered_tokens() == {tenant: 4}
