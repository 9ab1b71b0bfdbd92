"""The access log's gRPC edge, served by the real grpc.aio and called as Envoy calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from envoy.data.accesslog.v3 import accesslog_pb2
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
from tests.meter.test_settling import Recorder


def denial(request_id: str, *, seconds: int = 0) -> als_pb2.StreamAccessLogsMessage:
    """The message for a body that Envoy denied as too large, which began at `seconds` since the epoch."""
    record = accesslog_pb2.HTTPAccessLogEntry()
    record.request.request_id = request_id
    record.request.path = "/api/chat"
    record.response.response_code.value = 413
    record.response.response_code_details = "request_payload_too_large"
    record.common_properties.start_time.seconds = seconds
    message = als_pb2.StreamAccessLogsMessage()
    message.http_logs.log_entry.append(record)
    return message


async def test_a_malformed_record_is_skipped_and_the_next_one_of_its_stream_is_read(redis_url: str) -> None:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=100, load=Ledger().load, restore_s=0)
    outbox = Outbox(quota, Recorder(), size_max=10)
    redis = connect(Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5))
    causes = DisconnectCauses(DisconnectStore(redis, 5), quota, outbox.submit)
    server = grpc.aio.server()
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(AccessLogServicer(causes, outbox, ()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def messages() -> AsyncIterator[als_pb2.StreamAccessLogsMessage]:
        yield denial("malformed", seconds=2**62)
        yield denial("good")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply = await als_pb2_grpc.AccessLogServiceStub(channel).StreamAccessLogs(messages())
        assert reply == als_pb2.StreamAccessLogsResponse()
    # Nothing runs that would settle it, so the one entry waits.
    assert await outbox.wait_idle(0) == 1
    await server.stop(0)
    await redis.aclose()
    await quota.aclose()
