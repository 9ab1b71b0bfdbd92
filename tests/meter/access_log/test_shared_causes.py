"""Meters that share causes through a real Redis, whatever happens to it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import structlog
from pydantic import SecretStr

from gateway.quota.port import Hold
from gateway.record.entry import Entry
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Outcome
from meter.access_log import shared_causes
from meter.access_log.cause_stream import BLOCK_S, KEY, CauseStream
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.shared_causes import SharedCauses
from tests import redis_server
from tests.gateway.quota.builders import entry
from tests.meter.test_settling import background
from tests.polling import eventually_async
from tests.redis_commands import total_calls
from tests.redis_server import RedisServer

STREAMS = 5000
LEFT = replace(entry(Hold("broken", 1, 11, 0, 10, 90, ""), output_tokens=3), outcome=Outcome.CLIENT_GONE)


class Meter:
    """One meter's causes, and the entries that are final."""

    def __init__(self, stream: CauseStream, wait_s: float) -> None:
        self.entries: dict[str, Entry] = {}
        self.shared = SharedCauses(stream)
        self.causes = DisconnectCauses(self._submit, self.shared.publish, wait_s=wait_s)

    def _submit(self, final: Entry) -> None:
        assert final.request_id not in self.entries
        self.entries[final.request_id] = final

    def break_off(self, request_id: str) -> None:
        self.causes.register(request_id)
        self.causes.settle(replace(LEFT, request_id=request_id), lambda: None)

    def outcome(self, request_id: str) -> Outcome | None:
        return self.entries[request_id].outcome if request_id in self.entries else None


@asynccontextmanager
async def meters(
    url: str, *, wait_s: float = 60, shards: int = 1, timeout_s: float = 2.0
) -> AsyncIterator[list[Meter]]:
    settings = Settings(redis_url=SecretStr(url), redis_shards=shards, redis_timeout_s=timeout_s)
    clients = [connect(settings, block_s=BLOCK_S) for _ in range(2)]
    made = [Meter(CauseStream(client, timeout_s), wait_s) for client in clients]
    async with background(*(meter.shared.run(meter.causes.resolve) for meter in made)):
        yield made
    for client in clients:
        await client.aclose()


async def check_crossing(here: Meter, there: Meter, name: str) -> None:
    """Checks that a record that arrives at either meter becomes the cause of a request of the other one."""
    for index, (owner, logger) in enumerate(((here, there), (there, here))):
        request_id = f"{name}-{index}"
        owner.break_off(request_id)
        logger.causes.note(request_id, by_upstream=True)
    await eventually_async(lambda: there.outcome(f"{name}-1") is not None and here.outcome(f"{name}-0") is not None)
    assert (here.outcome(f"{name}-0"), there.outcome(f"{name}-1")) == (Outcome.UPSTREAM_ERROR, Outcome.UPSTREAM_ERROR)


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisServer]:
    with redis_server.one_server() as running:
        yield running


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


async def test_5000_streams_that_break_off_at_once_get_the_right_outcome_with_few_commands(redis: RedisServer) -> None:
    async with meters(redis.url) as (here, there):
        await check_crossing(here, there, "connected")
        with redis.client() as client:
            client.config_resetstat()
        for index in range(STREAMS):
            here.causes.register(str(index))
            # A quarter of the records arrives before its request ends.
            if index % 4:
                here.causes.settle(replace(LEFT, request_id=str(index)), lambda: None)
        for index in range(STREAMS):
            logger = (here, there)[index // 2 % 2]
            logger.causes.note(str(index), by_upstream=bool(index % 2))
        for index in range(0, STREAMS, 4):
            here.causes.settle(replace(LEFT, request_id=str(index)), lambda: None)
        await eventually_async(lambda: len(here.entries) == STREAMS + 1)
        with redis.client() as client:
            calls = total_calls(client)
    expected = [Outcome.UPSTREAM_ERROR if index % 2 else Outcome.CLIENT_GONE for index in range(STREAMS)]
    assert [here.outcome(str(index)) for index in range(STREAMS)] == expected
    assert calls["xadd"] <= STREAMS / 2 / shared_causes.BATCH_MAX + 1
    assert calls.total() < 200, calls
    assert here.causes.unknown == there.causes.unknown == 0


def report_causes(url: str) -> None:
    """Another meter's process: publishes the causes of all streams, then runs until it is terminated."""

    async def report() -> None:
        async with meters(url) as (reporter, _):
            for index in range(STREAMS):
                reporter.causes.note(str(index), by_upstream=bool(index % 2))
            await asyncio.Event().wait()

    asyncio.run(report())


async def test_5000_streams_get_the_right_outcome_from_another_process(redis: RedisServer) -> None:
    async with meters(redis.url) as (here, _):
        for index in range(STREAMS):
            here.break_off(str(index))
        process = multiprocessing.get_context("spawn").Process(target=report_causes, args=(redis.url,))
        process.start()
        try:
            await eventually_async(lambda: len(here.entries) == STREAMS)
        finally:
            process.terminate()
            process.join()
        assert here.causes.unknown == here.shared.dropped == 0
    expected = [Outcome.UPSTREAM_ERROR if index % 2 else Outcome.CLIENT_GONE for index in range(STREAMS)]
    assert [here.outcome(str(index)) for index in range(STREAMS)] == expected


async def test_a_cause_of_a_running_request_is_remembered_until_it_ends(redis: RedisServer) -> None:
    async with meters(redis.url) as (here, there):
        here.causes.register("running")
        there.causes.note("running", by_upstream=True)
        await check_crossing(here, there, "later")
        assert here.outcome("running") is None
        here.causes.settle(replace(LEFT, request_id="running"), lambda: None)
        assert here.outcome("running") is Outcome.UPSTREAM_ERROR


async def test_in_an_outage_causes_wait_for_redis(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        async with meters(server.url) as (here, there):
            await check_crossing(here, there, "before")
            server.kill()
            here.break_off("during")
            there.causes.note("during", by_upstream=True)
            here.break_off("local")
            assert here.causes.note("local", by_upstream=True)
            assert here.outcome("local") is Outcome.UPSTREAM_ERROR
            server.start()
            await eventually_async(lambda: here.outcome("during") is Outcome.UPSTREAM_ERROR)
            await check_crossing(here, there, "after")
    finally:
        server.kill()


async def test_without_redis_an_entry_is_final_at_its_deadline() -> None:
    async with meters("redis://127.0.0.1:1/0", wait_s=0.1) as (here, there):
        here.break_off("broken")
        there.causes.note("broken", by_upstream=True)
        await eventually_async(lambda: here.outcome("broken") is Outcome.CLIENT_GONE)
        assert here.causes.unknown == 1


async def test_a_redis_that_hangs_delays_causes(redis: RedisServer) -> None:
    async with meters(redis.url, timeout_s=0.2) as (here, there):
        await check_crossing(here, there, "before")
        with redis.frozen(), structlog.testing.capture_logs() as logs:
            here.break_off("during")
            there.causes.note("during", by_upstream=True)
            await eventually_async(lambda: {"causes_not_published", "causes_not_read"} <= {x["event"] for x in logs})
            assert here.outcome("during") is None
        await eventually_async(lambda: here.outcome("during") is Outcome.UPSTREAM_ERROR)


def _flush(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()


def _disconnect_clients(redis: RedisServer) -> None:
    with redis.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize("interrupt", [_flush, _disconnect_clients])
async def test_causes_arrive_after_an_interruption(
    redis: RedisServer, interrupt: Callable[[RedisServer], None]
) -> None:
    async with meters(redis.url) as (here, there):
        await check_crossing(here, there, "before")
        interrupt(redis)
        await check_crossing(here, there, "after")


async def test_a_stream_with_lower_ids_is_read_from_its_start(redis: RedisServer) -> None:
    async with meters(redis.url) as (here, there):
        with redis.client() as client:
            # The clock of the Redis that is lost was ahead.
            client.xadd(KEY, {"unrelated": 1}, id="9999999999999-0")
            await check_crossing(here, there, "before")
            client.flushall()
        here.break_off("during")
        there.causes.note("during", by_upstream=True)
        for meter in (here, there):
            meter.shared.read_from_start()
        await eventually_async(lambda: here.outcome("during") is Outcome.UPSTREAM_ERROR)
        await check_crossing(here, there, "after")


async def test_a_malformed_cause_is_logged_and_skipped(redis: RedisServer) -> None:
    async with meters(redis.url) as (here, there):
        here.break_off("broken")
        with redis.client() as client, structlog.testing.capture_logs() as logs:
            client.xadd(KEY, {"broken": "yes", b"\xff": b"\xff"})
            await check_crossing(here, there, "next")
        assert here.outcome("broken") is None
    unreadable = [each["request_id"] for each in logs if each["event"] == "cause_unreadable"]
    assert Counter(unreadable) == {"broken": 2, "\N{REPLACEMENT CHARACTER}": 2}


async def test_causes_beyond_the_bound_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_causes, "OUTGOING_MAX", 2)
    unreachable = connect(Settings(redis_url=SecretStr("redis://127.0.0.1:1/0")))
    shared = SharedCauses(CauseStream(unreachable, 1))
    with structlog.testing.capture_logs() as logs:
        for request_id in ("first", "second", "third"):
            shared.publish(request_id, by_upstream=True)
    assert [(each["event"], each["request_id"]) for each in logs] == [("cause_not_shared", "first")]
    assert shared.dropped == 1
    await unreachable.aclose()


async def test_the_stream_is_bounded(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(Settings(redis_url=SecretStr(redis.url), redis_timeout_s=5))
    stream = CauseStream(client, 5)
    for start in range(0, 4000, 100):
        await asyncio.gather(*(stream.append({str(index): True}) for index in range(start, start + 100)))
    length = await client.xlen(KEY)
    assert 2000 <= length <= 2200
    await client.aclose()


async def test_meters_share_causes_through_a_cluster() -> None:
    with redis_server.cluster() as servers:
        async with meters(servers[0].url, shards=4, timeout_s=5) as (here, there):
            await check_crossing(here, there, "cluster")
