"""The pipeline over a real PostgreSQL and Redis, with the quota's second implementation."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from pydantic import SecretStr

from authz import envoy_api
from authz.admit import Admitted, Admitter, Denial
from authz.catalog.view import CatalogView
from authz.check import CheckPipeline
from authz.checked_request import Body, CheckedRequest
from authz.denials import DenialLog
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import generate
from authz.keys.last_used import LastUsed
from authz.keys.throttle import FailureThrottle
from authz.line import Line, Stopped
from authz.server import Authorization
from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.catalog.store import CatalogStore
from gateway.errors import Code, Denied
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import Ledger
from gateway.queue.port import Candidate, Ticket
from gateway.quota.port import Admission, Backlog, ReservationDenied, Reserved
from gateway.record.caller import CALLER_KEY, Caller
from gateway.record.entry import Entry
from gateway.service import lifecycle
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Outcome, Principal
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import Dialect
from tests.authz.keys.test_authenticate import Bench
from tests.gateway.quota.builders import Clock
from tests.gateway.quota.model.quota import MemoryQuota

CLIENT_IP = "192.0.2.9"
CATALOG = Catalog((BackendState("near", 1, "0.20.0"),), {"m:latest": HostedModel("m:latest", ("near",), {})})


class GatedHasher(KeyHasher):
    """A hasher that verifies nothing before `gate` is set."""

    gate: asyncio.Event

    async def verify(self, stored: str | None, key: SecretStr) -> bool:
        await self.gate.wait()
        return await super().verify(stored, key)


class BlockingQuota(MemoryQuota):
    """A quota whose admissions block the event loop for `blocks_s`, as a busy process does, after they decided."""

    blocks_s = 0.0

    async def admit(self, admission: Admission) -> Reserved | ReservationDenied:
        answer = await super().admit(admission)
        time.sleep(self.blocks_s)  # noqa: ASYNC251 (it is to block the loop)
        return answer


class Gate(Line):
    """A line in which each request waits until the gate opens, and is then denied."""

    def __init__(self) -> None:
        self.waiting, self.opened = asyncio.Event(), asyncio.Event()

    def ticket(
        self, admission: Admission, principal: Principal, candidates: tuple[Candidate, ...], body_bytes: int
    ) -> Ticket:
        """The ticket of a request."""
        ids = principal.tenant_id, principal.key_id, principal.weight, principal.priority
        return Ticket(admission.request_id, *ids, admission.input_tokens, body_bytes, candidates, "worker")

    async def pass_through(
        self,
        admission: Admission,  # noqa: ARG002
        ticket: Ticket,  # noqa: ARG002
        deadline: asyncio.Timeout,  # noqa: ARG002
    ) -> Stopped:
        """The denial."""
        self.waiting.set()
        await self.opened.wait()
        return Stopped(Denied(Code.UNAVAILABLE), 1)


@dataclass
class World:
    """A pipeline and its parts. The throttle denies an address after one failure."""

    pipeline: CheckPipeline
    bench: Bench
    hasher: GatedHasher
    quota: BlockingQuota
    throttle: FailureThrottle
    outbox: Outbox

    async def disconnect(self) -> None:
        """Presents an unknown key and disconnects before it is verified."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await self.pipeline.identify(request(generate().secret))


def request(key: SecretStr) -> CheckedRequest:
    """A chat request."""
    return CheckedRequest("r", "POST", "/api/chat", key, CLIENT_IP, "", "", Body(b'{"model":"m"}'))


@asynccontextmanager
async def world_at(
    database_url: str,
    redis_url: str,
    timeout_s: float = 60.0,
    model_refusal_status: int = 403,
    line: Line | None = None,
) -> AsyncIterator[World]:
    settings = Settings(database_url=SecretStr(database_url), redis_url=SecretStr(redis_url), redis_timeout_s=5)
    async with AsyncExitStack() as stack:
        database, redis = Database(settings), connect(settings)
        stack.push_async_callback(database.close)
        stack.push_async_callback(redis.aclose)
        await redis.flushall()
        store = CatalogStore(redis, settings.redis_timeout_s)
        await store.publish(CATALOG, ttl_s=600)
        catalog = CatalogView(store)
        await catalog.refresh()
        hasher = GatedHasher(time_cost=1, memory_cost_kib=64, parallelism=1)
        stack.callback(hasher.close)
        hasher.gate = asyncio.Event()
        bench, ledger = Bench(database, hasher), Ledger(database)
        listening = asyncio.create_task(bench.change_listener.run())
        stack.push_async_callback(lifecycle.cancel, [listening])
        await bench.change_listener.wait_connected()
        throttle = FailureThrottle(redis, failures_max=1, timeout_s=5.0)
        quota = BlockingQuota(now_ms=Clock(), lease_s=15, backlog_max=10, load=ledger.usage_of, restore_s=0)
        stack.push_async_callback(quota.aclose)
        outbox = Outbox(quota, settlements_max=10, denials_max=10)
        pipeline = CheckPipeline(
            bench.authenticator,
            throttle,
            LastUsed(bench.key_repository),
            catalog,
            Admitter(quota, line=line),
            DenialLog(outbox),
            prefer_loaded=False,
            model_refusal_status=model_refusal_status,
            timeout_s=timeout_s,
            detached_max=2,
        )
        yield World(pipeline, bench, hasher, quota, throttle, outbox)


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_at(database_url, redis_url) as world:
        yield world


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def detached() -> int:
    """The number of authentications that still run."""
    return sum(task.get_name() == "authentication" for task in asyncio.all_tasks())


async def test_a_wrong_key_counts_as_a_failure_after_its_caller_disconnected(world: World) -> None:
    await world.disconnect()
    assert detached() == 1
    world.hasher.gate.set()
    async with asyncio.timeout(20):
        with pytest.raises(Denied) as denied:
            while True:
                await world.throttle.check(CLIENT_IP)
    assert denied.value.code is Code.AUTH_THROTTLED


async def test_disconnecting_callers_leave_a_bounded_number_of_verifications(world: World) -> None:
    for _ in range(4):
        await world.disconnect()
    assert detached() == 2


@pytest.mark.parametrize(("blocks_s", "is_admitted"), [(0.0, True), (2.5, False)])
async def test_a_decision_that_comes_after_the_deadline_is_a_denial_and_voids_the_hold(
    database_url: str, redis_url: str, blocks_s: float, is_admitted: bool
) -> None:
    async with world_at(database_url, redis_url, timeout_s=2.0) as world:
        world.hasher.gate.set()
        await world.bench.tenants.create_tenant("acme", {"allow_all_models": True})
        key = await world.bench.new_key()
        world.quota.blocks_s = blocks_s
        # The key is verified before the check, so that only the quota is slow.
        await world.pipeline.identify(request(key.secret))
        decision = await world.pipeline.check(request(key.secret))
        if is_admitted:
            assert isinstance(decision, Admitted)
            assert await world.quota.backlog() == Backlog(holds=1, events=0)
            return
        assert isinstance(decision, Denial)
        assert decision.denied.code is Code.UNAVAILABLE
        running = asyncio.create_task(world.outbox.run())
        assert await world.outbox.wait_idle(timeout_s=10) == 0
        await lifecycle.cancel([running])
        assert await world.quota.backlog() == Backlog(holds=0, events=1)
        (event,) = await world.quota.streams[0].read("test", 10, 0)
        entry = Entry.from_json(event.text)
        assert (entry.outcome, entry.code, entry.tenant, entry.model) == (
            Outcome.DENIED,
            "unavailable",
            "acme",
            "m:latest",
        )


@pytest.mark.parametrize("status", [403, 404])
async def test_a_refused_model_has_the_configured_status_in_answer_and_row(
    database_url: str, redis_url: str, status: int
) -> None:
    async with world_at(database_url, redis_url, model_refusal_status=status) as world:
        world.hasher.gate.set()
        await world.bench.tenants.create_tenant("acme", {"allowed_models": []})
        key = await world.bench.new_key()
        sent = Body(b'{"model":"m","max_tokens":9}')
        decision = await world.pipeline.check(replace(request(key.secret), path="/v1/messages", body=sent))
        assert isinstance(decision, Denial)
        answer = CheckResponse.FromString(envoy_api.denied(request(key.secret), decision)).denied_response
        assert (decision.denied.code, answer.status.code) == (Code.MODEL_NOT_ALLOWED, status)
        body = error_body(Dialect.ANTHROPIC, decision.denied.code, "m", "r", status=decision.denied.status)
        assert json.loads(body)["error"]["type"] == {403: "permission_error", 404: "not_found_error"}[status]
        (event,) = await world.quota.streams[0].read("test", 10, 0)
        assert Entry.from_json(event.text).status == status


async def test_rows_of_refused_keys_differ_and_their_answers_do_not(world: World) -> None:
    world.hasher.gate.set()
    await world.bench.tenants.create_tenant("acme", {"allow_all_models": True})
    revoked, unknown = await world.bench.new_key(), generate()
    await world.bench.tenants.revoke_key(revoked.prefix, "test")
    answers = []
    for number, key in enumerate((revoked.secret, unknown.secret, SecretStr("sk-other"), None)):
        checked = replace(
            request(unknown.secret), request_id=f"r{number}", client_ip=f"192.0.2.{number}", credential=key
        )
        decision = await world.pipeline.check(checked)
        assert isinstance(decision, Denial)
        response = CheckResponse.FromString(envoy_api.denied(replace(checked, request_id="r"), decision))
        answers.append(response.SerializeToString(deterministic=True))
    assert len(set(answers)) == 1
    events = await world.quota.streams[0].read("test", 10, 0)
    rows = {entry.request_id: entry for entry in (Entry.from_json(event.text) for event in events)}
    assert [(rows[f"r{n}"].reason, rows[f"r{n}"].tenant, rows[f"r{n}"].key_prefix) for n in range(4)] == [
        ("revoked", "acme", revoked.prefix),
        ("unknown", None, unknown.prefix),
        ("malformed", None, None),
        ("missing", None, None),
    ]


async def test_the_head_of_a_request_names_its_caller_to_envoy(world: World) -> None:
    world.hasher.gate.set()
    await world.bench.tenants.create_tenant("acme", {"allow_all_models": True})
    key = await world.bench.new_key()
    decision = await world.pipeline.check(replace(request(key.secret), is_head=True, body=Body()))
    assert isinstance(decision, Admitted)
    metadata = CheckResponse.FromString(envoy_api.admitted(decision, frozenset())).dynamic_metadata
    caller = Caller.from_json(metadata.fields[CALLER_KEY].string_value)
    assert (caller.tenant, caller.key_prefix) == ("acme", key.prefix)


async def test_a_request_without_a_key_is_no_failure_of_its_address(world: World) -> None:
    for _ in range(3):
        with pytest.raises(Denied) as denied:
            await world.pipeline.identify(replace(request(generate().secret), credential=None))
        assert denied.value.code is Code.INVALID_API_KEY
    await world.throttle.check(CLIENT_IP)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/pull", b"{}"), ("/api/chat", b'{"model":"other"}'), ("/api/chat", b"{")],
    ids=["path", "model", "syntax"],
)
async def test_a_denied_request_is_freed_without_a_garbage_collection(world: World, path: str, body: bytes) -> None:
    world.hasher.gate.set()
    await world.bench.tenants.create_tenant("acme", {"allowed_models": ["m"]})
    key = await world.bench.new_key()
    with no_garbage_collection():
        decision = await world.pipeline.check(replace(request(key.secret), path=path, body=Body(body)))
        assert isinstance(decision, Denial)
        assert not any(isinstance(each, CheckedRequest) for each in gc.get_objects())


async def test_a_request_that_timed_out_is_freed_without_a_garbage_collection(
    database_url: str, redis_url: str
) -> None:
    async with world_at(database_url, redis_url, timeout_s=0.2) as world:
        with no_garbage_collection():
            decision = await world.pipeline.check(request(generate().secret))
            assert isinstance(decision, Denial)
            assert decision.denied.code is Code.UNAVAILABLE
            assert not any(isinstance(each, CheckedRequest) for each in gc.get_objects())


@pytest.mark.parametrize("traced", [False, True], ids=["without tracing", "not sampled"])
async def test_a_waiting_request_does_not_retain_its_prompt(database_url: str, redis_url: str, traced: bool) -> None:
    line, size_bytes = Gate(), 4 << 20
    async with world_at(database_url, redis_url, line=line) as world:
        world.hasher.gate.set()
        await world.bench.tenants.create_tenant("acme", {"allow_all_models": True})
        key = await world.bench.new_key()
        await world.pipeline.identify(request(key.secret))
        authorization = Authorization(world.pipeline, Settings())

        def check() -> Coroutine[None, None, bytes]:
            sent = CheckRequest()
            http = sent.attributes.request.http
            http.method, http.path = "POST", "/api/chat"
            http.headers["authorization"] = f"Bearer {key.secret.get_secret_value()}"
            messages = [{"role": "user", "content": "x" * size_bytes}]
            http.raw_body = json.dumps({"model": "m", "messages": messages}).encode()
            return authorization.check_traced(sent, "") if traced else authorization.check(sent)

        tracemalloc.start()
        try:
            before_bytes, _ = tracemalloc.get_traced_memory()
            checking = asyncio.create_task(check())
            await line.waiting.wait()
            now_bytes, most_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most_bytes - before_bytes > size_bytes
        assert now_bytes - before_bytes < size_bytes / 4
        # Its memory is not traced.
        assert not any(isinstance(each, CheckRequest) for each in gc.get_objects())
        running = asyncio.create_task(world.outbox.run())
        line.opened.set()
        response = CheckResponse.FromString(await checking)
        assert response.denied_response.status.code == 503
        assert await world.outbox.wait_idle(timeout_s=10) == 0
        await lifecycle.cancel([running])
        (event,) = await world.quota.streams[0].read("test", 10, 0)
        assert Entry.from_json(event.text).request_bytes > size_bytes
