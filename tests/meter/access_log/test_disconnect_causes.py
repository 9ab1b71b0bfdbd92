"""Who ended an answer that broke off, and the rows of what Envoy refused by itself, from Envoy's access log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from pydantic import SecretStr

from gateway.quota.port import Backlog, Hold
from gateway.record.entry import Entry
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.disconnect_store import DisconnectStore
from meter.access_log.records import DownstreamClosed, StreamReset, read
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, entry
from tests.gateway.quota.model.quota import MemoryQuota
from tests.meter.wire_corpus import draft_of, grant_for
from tests.polling import eventually_async

LOOPBACK = (ip_network("127.0.0.0/8"),)
HOLD = Hold("broken", 1, 11, 0, 10, 90, "")
LEFT = replace(entry(HOLD, output_tokens=3), outcome=Outcome.CLIENT_GONE)


def record(details: str, status: int = 200, path: str = "/api/chat") -> accesslog_pb2.HTTPAccessLogEntry:
    """What Envoy writes of one request."""
    made = accesslog_pb2.HTTPAccessLogEntry()
    made.request.request_id = "broken"
    made.request.path = path
    made.request.user_agent = "curl/8"
    made.request.forwarded_for = "203.0.113.9"
    made.request.request_body_bytes = 74
    made.response.response_code_details = details
    made.response.response_code.value = status
    made.common_properties.start_time.FromMilliseconds(1_763_726_400_000)
    made.common_properties.downstream_direct_remote_address.socket_address.address = "127.0.0.1"
    return made


@pytest.fixture
async def shared(redis_url: str) -> AsyncIterator[DisconnectStore]:
    redis = connect(Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5))
    await redis.flushall()
    yield DisconnectStore(redis, 5)
    await redis.aclose()


@pytest.fixture
async def quota() -> AsyncIterator[MemoryQuota]:
    made = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=100, load=Ledger().load, restore_s=0)
    yield made
    await made.aclose()


@pytest.mark.parametrize(
    ("details", "by_upstream"),
    [("upstream_reset_after_response_started{protocol_error}", True), ("downstream_remote_disconnect", False)],
)
def test_the_log_says_which_side_went_away(details: str, by_upstream: bool) -> None:
    assert read(record(details), LOOPBACK) == StreamReset("broken", by_upstream)


def test_a_caller_may_leave_before_any_answer() -> None:
    assert read(record("downstream_remote_disconnect", status=0), LOOPBACK) == DownstreamClosed("broken")


async def test_a_hold_that_no_meter_heard_of_is_settled_without_waiting_for_the_reaper(
    shared: DisconnectStore, quota: MemoryQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = grant_for(BY_NAME["chat"], request_id="unheard", tenant_id=1, key_id=11)
    asked = replace(asks(request_id="unheard"), grant_draft=draft_of(grant))
    hold = await admitted(quota, asked)
    final: list[Entry] = []
    disconnect_causes = DisconnectCauses(shared, quota, final.append, wait_s=0.1, orphan_after_s=0.05)
    disconnect_causes.settle_orphan("unheard")
    disconnect_causes.settle_orphan("settled by its meter")
    await eventually_async(lambda: len(final) == 1)
    (left,) = final
    assert (left.outcome, left.status, left.input_tokens, left.output_tokens) == (Outcome.CLIENT_GONE, 499, 0, 0)
    assert (left.ts_ms, left.reserved_tokens) == (hold.admitted_at_ms, hold.input_tokens + hold.output_cap)
    assert await quota.settle(left)
    assert await quota.backlog() == Backlog(holds=0, events=1)
    await asyncio.sleep(0.1)
    assert len(final) == 1


def test_a_record_without_an_id_says_nothing() -> None:
    nameless = record("ext_authz_error", 503)
    nameless.request.request_id = ""
    assert read(nameless, LOOPBACK) is None


@pytest.mark.parametrize(
    ("details", "status", "code"),
    [
        ("ext_authz_error", 503, "unavailable"),
        ("request_payload_too_large", 413, "request_too_large"),
        ("request_overall_timeout", 408, "request_timeout"),
    ],
)
def test_a_refusal_of_envoy_itself_has_an_entry(details: str, status: int, code: str) -> None:
    refused = read(record(details, status, "/v1/chat/completions?x=1"), LOOPBACK)
    assert isinstance(refused, Entry)
    assert (refused.outcome, refused.status, refused.code) == (Outcome.DENIED, status, code)
    assert (refused.path, refused.client_ip, refused.ts_ms) == (
        "/v1/chat/completions",
        "203.0.113.9",
        1_763_726_400_000,
    )
    assert Entry.from_json(refused.to_json()) == refused


def test_a_path_that_reaches_no_model_has_no_entry() -> None:
    assert read(record("request_payload_too_large", 413, "/api/show"), LOOPBACK) is None


@pytest.mark.parametrize("by_upstream", [True, False])
async def test_the_word_may_come_before_or_after_and_to_another_meter(
    shared: DisconnectStore, quota: MemoryQuota, by_upstream: bool
) -> None:
    final: list[Entry] = []
    logged, asking = (
        DisconnectCauses(shared, quota, final.append),
        DisconnectCauses(shared, quota, final.append),
    )
    expected = (Outcome.UPSTREAM_ERROR, "backend_error") if by_upstream else (Outcome.CLIENT_GONE, None)
    asking.settle(LEFT)
    await asyncio.sleep(0.1)
    logged.note(LEFT.request_id, by_upstream)
    await eventually_async(lambda: len(final) == 1)
    asking.settle(LEFT)
    await eventually_async(lambda: len(final) == 2)
    assert [(each.outcome, each.code, each.output_tokens) for each in final] == [(*expected, 3)] * 2


async def test_without_any_word_it_was_the_caller(
    shared: DisconnectStore, quota: MemoryQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    final: list[Entry] = []
    DisconnectCauses(shared, quota, final.append, wait_s=0.1, orphan_after_s=0.05).settle(LEFT)
    await eventually_async(lambda: final == [LEFT])


async def test_a_meter_that_stops_waits_for_no_word(shared: DisconnectStore, quota: MemoryQuota) -> None:
    final: list[Entry] = []
    disconnect_causes = DisconnectCauses(shared, quota, final.append, wait_s=0.1, orphan_after_s=0.05)
    disconnect_causes.settle(LEFT)
    await asyncio.sleep(0)
    await disconnect_causes.close()
    assert final == [LEFT]


async def test_an_outage_delays_no_entry(quota: MemoryQuota) -> None:
    nobody = connect(Settings(redis_url=SecretStr("redis://127.0.0.1:1/0")))
    final: list[Entry] = []
    disconnect_causes = DisconnectCauses(DisconnectStore(nobody, 5), quota, final.append)
    disconnect_causes.note(LEFT.request_id, by_upstream=True)
    disconnect_causes.settle(LEFT)
    await eventually_async(lambda: final == [LEFT])
    await disconnect_causes.close()
    await nobody.aclose()
