"""The access log's gRPC edge, served by the real grpc.aio and called as Envoy calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from pydantic import SecretStr

from gateway.ledger.outbox import Outbox
from gateway.settings import Settings
from gateway.stores.redis import connect
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.disconnect_store import DisconnectStore
from meter.access_log.server import AccessLogServicer
from tests.gateway.quota.builders import Clock, Ledger
from tests.gateway.quota.model.quota import MemoryQuota
from tests.meter.access_log.test_records import record


def message(*, start_s: int = 0) -> als_pb2.StreamAccessLogsMessage:
    """A message with the record of a denial by Envoy, whose request began at `start_s`, in seconds since the epoch."""
    made = als_pb2.StreamAccessLogsMessage()
    made.http_logs.log_entry.append(record("request_payload_too_large", 413))
    made.http_logs.log_entry[0].common_properties.start_time.seconds = start_s
    return made


async def test_a_malformed_record_is_skipped_and_the_next_one_of_its_stream_is_read(redis_url: str) -> None:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=100, load=Ledger().load, restore_s=0)
    outbox = Outbox(quota, settlements_max=10, denials_max=10)
    redis = connect(Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5))
    causes = DisconnectCauses(DisconnectStore(redis, 5), quota, outbox.submit)
    server = grpc.aio.server()
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(AccessLogServicer(causes, outbox, ()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def messages() -> AsyncIterator[als_pb2.StreamAccessLogsMessage]:
        yield message(start_s=2**62)
        yield message()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply = await als_pb2_grpc.AccessLogServiceStub(channel).StreamAccessLogs(messages())
        assert reply == als_pb2.StreamAccessLogsResponse()
    # Nothing runs that would settle it, so the one entry waits.
    assert await outbox.wait_idle(0) == 1
    await server.stop(0)
    await redis.aclose()
    await quota.aclose()
