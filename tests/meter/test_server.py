"""The meter's gRPC edge, served by each transport and called by grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc

from gateway.ledger.outbox import Outbox
from gateway.quota.port import Backlog
from gateway.record.grant import GRANT_HEADER
from gateway.rpc.methods import Streaming
from gateway.rpc.server import RpcServer
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.wire.names import CLUSTER_HEADER
from meter.access_log.cause_stream import CauseStream
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.shared_causes import SharedCauses
from meter.prompt_log.store import PromptLog
from meter.prompt_log.writer import PromptWriter
from meter.renewal import Renewal
from meter.server import ExternalProcessor
from tests.gateway.quota.builders import Clock, Ledger
from tests.gateway.quota.model.quota import MemoryQuota
from tests.gateway.rpc.echo import TRANSPORTS
from tests.meter.test_settling import admit, background
from tests.meter.wire_corpus import json_of, transcript

REQUESTS = 5
CHAT = transcript("api_chat_stream")
OPENING = ext_proc.ProcessingRequest(request_body=ext_proc.HttpBody(body=CHAT.request))


@dataclass
class Meter:
    """A meter's server and a channel to it, over the quota's second implementation."""

    processor: ExternalProcessor
    server: RpcServer
    quota: MemoryQuota
    outbox: Outbox
    disconnect_causes: DisconnectCauses
    channel: grpc.aio.Channel

    async def opens(self, grant: str) -> tuple[Any, ext_proc.ProcessingResponse]:
        """The stream of a request with this grant, and the reply to its body."""
        stream = external_processor_pb2_grpc.ExternalProcessorStub(self.channel).Process(
            metadata=((GRANT_HEADER.decode(), grant),)
        )
        await stream.write(OPENING)
        return stream, await stream.read()


@asynccontextmanager
async def serving(transport: str, redis_url: str, database_url: str, directory: Path) -> AsyncIterator[Meter]:
    clock = Clock()
    quota = MemoryQuota(now_ms=clock, lease_s=15.0, backlog_max=1000, load=Ledger().load)
    clock.forward((await quota.epoch()).opens_in_s)
    outbox = Outbox(quota, settlements_max=10, denials_max=10)
    redis = connect(Settings(redis_url=redis_url, redis_timeout_s=5))
    disconnect_causes = DisconnectCauses(outbox.submit, SharedCauses(CauseStream(redis, 5)).publish)
    database = Database(Settings(database_url=database_url))
    prompts = PromptWriter(PromptLog(database), timedelta(days=1))
    processor = ExternalProcessor(outbox, Renewal(quota, 15.0), disconnect_causes, prompts)
    server = TRANSPORTS[transport](processor.methods(), 1 << 20)
    address = f"unix:{directory}/meter.sock"
    await server.start(address)
    async with background(outbox.run()), grpc.aio.insecure_channel(address) as channel:
        yield Meter(processor, server, quota, outbox, disconnect_causes, channel)
        await server.stop(0)
    await database.close()
    await redis.aclose()
    await quota.aclose()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_meter_waits_for_its_streams_before_it_settles_the_last_entries(
    transport: str, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with serving(transport, redis_url, database_url, tmp_path) as meter:
        streams = []
        for _ in range(REQUESTS):
            grant, _ = await admit(meter.quota)
            stream, opened = await meter.opens(json_of(grant))
            assert opened.HasField("request_body")
            streams.append(stream)
        assert await meter.quota.backlog() == Backlog(holds=REQUESTS, events=0)
        finished = asyncio.create_task(meter.server.stop(20))
        await asyncio.sleep(0)
        assert not finished.done()
        for stream in streams:
            await stream.done_writing()
        await finished
        meter.disconnect_causes.close()
        assert await meter.outbox.wait_idle(10) == 0
        assert await meter.quota.backlog() == Backlog(holds=0, events=REQUESTS)


@pytest.mark.parametrize("grant", ["", "{", "{}", "[]", "5", '{"request_id":"req-1"}'])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_grant_that_cannot_be_read_is_answered_as_unavailable(
    transport: str, redis_url: str, database_url: str, grant: str, tmp_path: Path
) -> None:
    async with serving(transport, redis_url, database_url, tmp_path) as meter:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await meter.opens(grant)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await meter.outbox.wait_idle(0) == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_answer_of_a_backend_without_a_record_does_not_pass(
    transport: str, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with serving(transport, redis_url, database_url, tmp_path) as meter:
        stub = external_processor_pb2_grpc.ExternalProcessorStub(meter.channel)
        stream = stub.Process(metadata=((GRANT_HEADER.decode(), "{}"),))
        head = ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders())
        head.response_headers.headers.headers.add(key=CLUSTER_HEADER, raw_value=b"backend:near")
        await stream.write(head)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()
        assert failed.value.code() is grpc.StatusCode.INTERNAL


async def test_a_request_is_settled_when_its_call_is_cancelled_before_the_wait_for_its_settlement_begins(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with serving("nghttp2", redis_url, database_url, tmp_path) as meter:
        grant, _ = await admit(meter.quota)
        (method,) = meter.processor.methods()
        assert isinstance(method, Streaming)
        session = method.open({GRANT_HEADER: json_of(grant).encode()})
        session.receive(OPENING)
        head = ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders(end_of_stream=True))
        head.response_headers.headers.headers.add(key=CLUSTER_HEADER, raw_value=b"backend:near")
        reply = session.receive(head)
        assert isinstance(reply, Awaitable)
        asyncio.ensure_future(reply).cancel()
        session.close(None)
        assert await meter.outbox.wait_idle(10) == 0
        assert await meter.quota.backlog() == Backlog(holds=0, events=1)
