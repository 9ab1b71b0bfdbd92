"""The message that ends an answer, over a real Redis: released when its settlement is stored, or after a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc
from pydantic import SecretStr

from gateway.ledger.outbox import Outbox
from gateway.quota.port import Backlog, Reserved
from gateway.quota.redis import keys
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Entry
from gateway.record.grant import GRANT_HEADER
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Outcome
from gateway.wire.names import CLUSTER_HEADER
from gateway.wire.surfaces import BY_NAME
from meter.access_log.cause_stream import CauseStream
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.shared_causes import SharedCauses
from meter.prompt_log.store import PromptLog
from meter.prompt_log.writer import PromptWriter
from meter.renewal import Renewal
from meter.server import ExternalProcessor
from tests.gateway.quota.builders import Ledger, asks
from tests.gateway.rpc.echo import TRANSPORTS
from tests.meter.test_settling import background
from tests.meter.wire_corpus import draft_of, grant_for, json_of, transcript
from tests.polling import eventually_async
from tests.ports import free_port
from tests.redis_server import RedisServer, one_server

CHAT = transcript("api_chat_stream")
LINES = CHAT.body.splitlines(keepends=True)
WHOLE = transcript("api_chat_nonstream")
pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)
# Longer than a settlement on a loaded machine takes, and shorter than the deadline of a test.
BOUND_S = 2.0


@dataclass
class Meter:
    """A meter over a real Redis, called as Envoy calls it."""

    redis: RedisServer
    quota: RedisQuota
    outbox: Outbox
    causes: DisconnectCauses
    stub: Any

    async def begin(self, *, stream: bool = True) -> Any:
        """The stream of an admitted request whose backend has begun to answer."""
        drafted = grant_for(BY_NAME["chat"], request_id=asks().request_id, tenant_id=1, key_id=11, stream=stream)
        request = replace(asks(request_id=drafted.request_id), grant_draft=draft_of(drafted))
        admitted = await self.quota.admit(request)
        assert isinstance(admitted, Reserved)
        grant = replace(drafted, admitted_at_ms=admitted.admitted_at_ms)
        call = self.stub.Process(metadata=((GRANT_HEADER.decode(), json_of(grant)),))
        await exchange(call, ext_proc.ProcessingRequest(request_body=ext_proc.HttpBody(body=CHAT.request)))
        kind = "application/x-ndjson" if stream else "application/json"
        headers = [
            base_pb2.HeaderValue(key=":status", raw_value=b"200"),
            base_pb2.HeaderValue(key="content-type", raw_value=kind.encode()),
            base_pb2.HeaderValue(key=CLUSTER_HEADER, raw_value=b"backend:near"),
        ]
        head = ext_proc.ProcessingRequest(
            response_headers=ext_proc.HttpHeaders(headers=base_pb2.HeaderMap(headers=headers))
        )
        await exchange(call, head)
        return call

    def deadline_ms(self) -> float:
        """When the one hold expires."""
        ((_, deadline_ms),) = self.redis.client().zrange(keys.of_shard(0)[1], 0, -1, withscores=True)
        return float(deadline_ms)

    async def entry(self) -> Entry:
        """The one entry that waits for the ledger."""
        (event,) = await self.quota.streams[0].read("test", 10, 10)
        return Entry.from_json(event.text)


async def exchange(call: Any, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
    """Sends a message and returns the reply to it."""
    await call.write(message)
    reply: ext_proc.ProcessingResponse = await call.read()
    return reply


def chunk(data: bytes, *, end: bool = False) -> ext_proc.ProcessingRequest:
    """A piece of an answer."""
    return ext_proc.ProcessingRequest(response_body=ext_proc.HttpBody(body=data, end_of_stream=end))


@asynccontextmanager
async def serving(
    transport: str, database_url: str, *, settle_wait_s: float, lease_s: float = 15.0
) -> AsyncIterator[Meter]:
    with one_server() as server:
        settings = Settings(
            redis_url=SecretStr(server.url),
            database_url=SecretStr(database_url),
            redis_timeout_s=2 * BOUND_S,
            hold_lease_s=lease_s,
        )
        redis, database = connect(settings), Database(settings)
        quota = RedisQuota(redis, settings, Ledger().load, restore_s=0)
        outbox = Outbox(quota, settlements_max=10, denials_max=10)
        causes = DisconnectCauses(outbox.submit, SharedCauses(CauseStream(redis, 5)).publish, wait_s=60)
        prompts = PromptWriter(PromptLog(database), timedelta(days=1))
        renewal = Renewal(quota, settings.hold_lease_s)
        processor = ExternalProcessor(outbox, renewal, causes, prompts, settle_wait_s=settle_wait_s)
        rpc_server = TRANSPORTS[transport](processor.methods(), 1 << 20)
        listen = f"127.0.0.1:{free_port()}"
        await rpc_server.start(listen)
        work = background(outbox.run(), renewal.run())
        async with work, grpc.aio.insecure_channel(listen) as channel:
            yield Meter(server, quota, outbox, causes, external_processor_pb2_grpc.ExternalProcessorStub(channel))
            await rpc_server.stop(0)
        await database.close()
        await quota.aclose()
        await redis.aclose()


@pytest.mark.parametrize("ends_later", [False, True], ids=["one message", "the end comes later"])
async def test_the_last_frame_is_released_when_its_settlement_is_stored(
    transport: str, database_url: str, ends_later: bool
) -> None:
    async with serving(transport, database_url, settle_wait_s=10 * BOUND_S) as meter:
        call = await meter.begin()
        await exchange(call, chunk(b"".join(LINES[:-1])))
        assert await meter.quota.backlog() == Backlog(holds=1, events=0)
        with meter.redis.frozen():
            await call.write(chunk(LINES[-1], end=not ends_later))
            last = asyncio.create_task(call.read())
            # Another request of the process is served meanwhile.
            await exchange(meter.stub.Process(), ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders()))
            assert not last.done()
        assert (await last).HasField("response_body")
        # A meter that is killed now has nothing left to do.
        assert await meter.quota.backlog() == Backlog(holds=0, events=1)
        if ends_later:
            await exchange(call, chunk(b"", end=True))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        entry = await meter.entry()
        assert (entry.outcome, entry.input_tokens, entry.output_tokens) == (Outcome.COMPLETE, 26, 4)


async def test_a_whole_answer_is_released_when_its_settlement_is_stored(transport: str, database_url: str) -> None:
    async with serving(transport, database_url, settle_wait_s=10 * BOUND_S) as meter:
        call = await meter.begin(stream=False)
        reply = await exchange(call, chunk(WHOLE.body, end=True))
        assert not reply.HasField("immediate_response")
        assert await meter.quota.backlog() == Backlog(holds=0, events=1)
        assert (await meter.entry()).outcome is Outcome.COMPLETE


async def test_while_redis_hangs_the_last_frame_is_released_after_the_bound(transport: str, database_url: str) -> None:
    async with serving(transport, database_url, settle_wait_s=0.05) as meter:
        call = await meter.begin()
        with meter.redis.frozen():
            assert (await exchange(call, chunk(CHAT.body, end=True))).HasField("response_body")
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
        assert await meter.outbox.wait_idle(10 * BOUND_S) == 0
        assert await meter.quota.backlog() == Backlog(holds=0, events=1)
        entry = await meter.entry()
        assert (entry.outcome, entry.input_tokens, entry.output_tokens) == (Outcome.COMPLETE, 26, 4)


async def test_a_caller_that_leaves_during_the_wait_has_one_row_with_the_outcome_of_the_answer(
    transport: str,
    database_url: str,
) -> None:
    async with serving(transport, database_url, settle_wait_s=10 * BOUND_S) as meter:
        call = await meter.begin()
        with meter.redis.frozen():
            await call.write(chunk(CHAT.body, end=True))
            # The reply to a message on another stream shows that the meter has received the chunk.
            await exchange(meter.stub.Process(), ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders()))
            call.cancel()
        await eventually_settled(meter)
        entry = await meter.entry()
        assert (entry.outcome, entry.output_tokens) == (Outcome.COMPLETE, 4)


async def eventually_settled(meter: Meter) -> None:
    """Waits until the outbox has an entry and has stored it."""
    await eventually_async(lambda: bool(meter.outbox.unconfirmed))
    assert await meter.outbox.wait_idle(10 * BOUND_S) == 0
    assert await meter.quota.backlog() == Backlog(holds=0, events=1)


async def test_a_hold_does_not_expire_while_its_request_waits_for_the_cause(transport: str, database_url: str) -> None:
    async with serving(transport, database_url, settle_wait_s=BOUND_S, lease_s=0.5) as meter:
        call = await meter.begin()
        await exchange(call, chunk(LINES[0]))
        before_ms = meter.deadline_ms()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        # Several leases later than at its last renewal before the end.
        await eventually_async(lambda: meter.deadline_ms() > before_ms + 2000)
        assert await meter.quota.backlog() == Backlog(holds=1, events=0)
        (request_id,) = meter.redis.client().hkeys(keys.of_shard(0)[0])
        assert meter.causes.note(request_id.decode(), by_upstream=True)
        assert await meter.outbox.wait_idle(10) == 0
        assert await meter.quota.backlog() == Backlog(holds=0, events=1)
        entry = await meter.entry()
        assert (entry.outcome, entry.code, entry.output_tokens) == (Outcome.UPSTREAM_ERROR, "backend_error", 1)
