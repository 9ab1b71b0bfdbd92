"""The access log's gRPC edge, served by each transport and called as Envoy calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from gateway.ledger.outbox import Outbox
from gateway.quota.port import Hold
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.orphans import Orphans
from meter.access_log.server import AccessLog
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, entry
from tests.gateway.quota.model.quota import MemoryQuota
from tests.gateway.rpc.echo import TRANSPORTS
from tests.meter.access_log.test_records import record
from tests.meter.test_settling import background
from tests.meter.wire_corpus import draft_of, grant_for
from tests.polling import eventually_async


def message(*, start_s: int = 0) -> als_pb2.StreamAccessLogsMessage:
    """A message with the record of a denial by Envoy, whose request began at `start_s`, in seconds since the epoch."""
    denied = record("request_payload_too_large", 413)
    denied.common_properties.start_time.seconds = start_s
    return of(denied)


def of(logged: accesslog_pb2.HTTPAccessLogEntry) -> als_pb2.StreamAccessLogsMessage:
    """A message with this record."""
    made = als_pb2.StreamAccessLogsMessage()
    made.http_logs.log_entry.append(logged)
    return made


@dataclass
class Meter:
    """The access log's service, served by each transport, over the quota's second implementation."""

    quota: MemoryQuota
    outbox: Outbox
    causes: DisconnectCauses
    published: list[tuple[str, bool]]
    orphans: Orphans
    stub: als_pb2_grpc.AccessLogServiceStub

    async def send(self, *messages: als_pb2.StreamAccessLogsMessage) -> None:
        """Sends these messages as one stream of Envoy, and waits until they are read."""

        async def stream() -> AsyncIterator[als_pb2.StreamAccessLogsMessage]:
            for each in messages:
                yield each

        assert await self.stub.StreamAccessLogs(stream()) == als_pb2.StreamAccessLogsResponse()


@pytest.fixture(params=TRANSPORTS)
async def meter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Meter]:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=100, load=Ledger().load, restore_s=0)
    outbox = Outbox(quota, settlements_max=10, denials_max=10)
    published: list[tuple[str, bool]] = []
    causes = DisconnectCauses(outbox.submit, lambda *cause: published.append(cause), wait_s=60)
    orphans = Orphans(quota, outbox.submit, after_s=0.0)
    server = TRANSPORTS[request.param](AccessLog(causes, orphans, outbox, ()).methods(), 1 << 20)
    address = f"unix:{tmp_path}/meter.sock"
    await server.start(address)
    async with grpc.aio.insecure_channel(address) as channel:
        yield Meter(quota, outbox, causes, published, orphans, als_pb2_grpc.AccessLogServiceStub(channel))
    await server.stop(0)
    await quota.aclose()


async def test_a_malformed_record_is_skipped_and_the_next_one_of_its_stream_is_read(meter: Meter) -> None:
    await meter.send(message(start_s=2**62), message())
    # Nothing runs that would settle it, so the one entry waits.
    assert await meter.outbox.wait_idle(0) == 1


@pytest.mark.parametrize("status", [0, 200])
async def test_a_disconnect_of_the_caller_is_the_cause_of_a_request_of_this_meter(meter: Meter, status: int) -> None:
    left = replace(entry(Hold("broken", 1, 11, 0, 10, 90, "")), outcome=Outcome.CLIENT_GONE)
    final: list[str] = []
    meter.causes.settle(left, lambda: final.append("broken"))
    await meter.send(of(record("downstream_remote_disconnect", status)))
    assert (final, meter.published) == (["broken"], [])
    assert await meter.outbox.wait_idle(0) == 1


async def test_a_caller_that_left_before_any_answer_may_have_left_an_orphan(meter: Meter) -> None:
    grant = grant_for(BY_NAME["chat"], request_id="broken", tenant_id=1, key_id=11)
    await admitted(meter.quota, replace(asks(request_id="broken"), grant_draft=draft_of(grant)))
    async with background(meter.orphans.run()):
        await meter.send(of(record("downstream_remote_disconnect", status=0)))
        await eventually_async(lambda: meter.outbox.wait_idle(0))
    assert meter.published == [("broken", False)]
