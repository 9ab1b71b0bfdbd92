"""The promises of the queue, on a running stack whose only replica has one slot."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from gateway.queue.port import QueueRules
from gateway.queue.redis.queue import RedisQueue
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import GenerationRequest, client
from tests.e2e.queue_stack import MAX_PER_TENANT, MAX_WAIT_S, PACE_TOKENS_PER_S, QueueStack
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually_async

# How long two tenants compete, in which the slot serves about 60 requests.
SHARE_S = 8


@pytest.fixture
def queue(queue_stack: QueueStack) -> Stack:
    return queue_stack.stack


@pytest.fixture
def backend(queue_stack: QueueStack) -> Simulator:
    return queue_stack.backend


@asynccontextmanager
async def clients(stack: Stack) -> AsyncIterator[tuple[aiohttp.ClientSession, LedgerView]]:
    """A client of the stack, and its ledger."""
    async with client(stack.url, "fair-share") as session, open_ledger_view(stack) as ledger_view:
        yield session, ledger_view


class Answer:
    """The status and the headers of a finished answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.code = response.headers.get("x-gateway-error")
        self.request_id = response.headers["x-request-id"]
        self.headers = response.headers

    @property
    def queued_ms(self) -> int:
        """The announced time in the queue, 0 when the request did not wait."""
        return int(self.headers.get("x-queue-wait-ms", 0))


async def send(session: aiohttp.ClientSession, key: str, words: int) -> Answer:
    request = GenerationRequest("/api/chat", key, words=words, output_tokens_max=words)
    async with session.post(request.path, json=request.body, headers=request.headers) as response:
        await response.read()
        return Answer(response)


async def verify(session: aiohttp.ClientSession, *keys: str) -> None:
    """Sends a short request with each key to both workers, because the first one has to hash it, which takes long."""
    for key in keys:
        answers = await asyncio.gather(*(send(session, key, 1) for _ in range(6)))
        assert {answer.status for answer in answers} == {200}


def queue_of(ledger_view: LedgerView) -> RedisQueue:
    """The queue of the stack, to read its state."""
    return RedisQueue(ledger_view.redis, 10.0, QueueRules())


async def running(ledger_view: LedgerView) -> int:
    """The number of slots in use."""
    return sum(each.running for each in (await queue_of(ledger_view).status()).replicas.values())


async def eventually_running(ledger_view: LedgerView) -> None:
    async def reached() -> bool:
        return await running(ledger_view) == 1

    await eventually_async(reached, 10, failure="no request ran")


async def eventually_waiting(ledger_view: LedgerView, count: int) -> None:
    async def reached() -> bool:
        return len((await queue_of(ledger_view).status()).tickets) == count

    await eventually_async(reached, 10, failure=f"never {count} requests waited")


async def test_a_short_request_waits_for_at_most_one_answer_of_a_neighbour_who_has_five(
    queue: Stack, backend: Simulator
) -> None:
    alice, bob = queue.new_key("alice"), queue.new_key("bob")
    queue.cli("set-limits", "--tenant", "alice", "--concurrent", "8")
    async with clients(queue) as (session, ledger_view):
        await verify(session, alice, bob)
        long = [asyncio.create_task(send(session, alice, 75)) for _ in range(5)]
        await eventually_waiting(ledger_view, 4)
        answer = await send(session, bob, 5)
        assert answer.status == 200
        assert answer.queued_ms > 0
        assert sum(each.done() for each in long) <= 1
        answers = await asyncio.gather(*long)
        assert {each.status for each in answers} == {200}
        assert await running(ledger_view) == 0
        (row,) = (await ledger_view.wait_for_rows([answer.request_id]))[answer.request_id]
        assert row["queued_ms"] == answer.queued_ms


async def test_a_caller_that_leaves_while_it_waits_frees_its_place_and_has_one_row(
    queue: Stack, backend: Simulator
) -> None:
    key, gone = queue.new_key("stays"), queue.new_key("leaves")
    async with clients(queue) as (session, ledger_view):
        await verify(session, key, gone)
        stays = asyncio.create_task(send(session, key, 300))
        await eventually_running(ledger_view)
        leaves = [asyncio.create_task(send(session, gone, 5)) for _ in range(3)]
        await eventually_waiting(ledger_view, 3)
        for each in leaves:
            each.cancel()
        await eventually_waiting(ledger_view, 0)
        assert not stays.done()
        assert (await stays).status == 200
        tenant = await ledger_view.tenant_id("leaves")

        async def rows() -> list[dict[str, object]]:
            found = [row for row in await ledger_view.tenant_rows(tenant) if row["status"] != 200]
            return found if len(found) >= 3 else []

        found = await eventually_async(rows, 20)
        assert len(found) == 3
        assert {(row["status"], row["outcome"], row["input_tokens"], row["output_tokens"]) for row in found} == {
            (499, "client_gone", 0, 0)
        }
        assert all(backend.requests(str(row["request_id"])) == [] for row in found)


async def test_a_key_sees_the_place_of_its_request_among_those_of_its_tenant_only(queue: Stack) -> None:
    first, blocker = queue.new_key("places"), queue.new_key("in front")
    second, idle = (queue.cli("create-key", "--tenant", "places", "--name", name)["key"] for name in ("k2", "k3"))
    async with clients(queue) as (session, ledger_view):
        await verify(session, first, second, blocker)
        blocks = asyncio.create_task(send(session, blocker, 500))
        await eventually_running(ledger_view)
        waits: list[asyncio.Task[Answer]] = []
        for key in (first, second, second):
            waits.append(asyncio.create_task(send(session, key, 5)))
            await eventually_waiting(ledger_view, len(waits))

        async def places() -> dict[str, tuple[object, ...]]:
            """Running and waiting requests and the position that each key sees."""
            found: dict[str, tuple[object, ...]] = {}
            for key in (first, second, idle, blocker):
                headers = {"Authorization": f"Bearer {key}"}
                async with session.get(f"{queue.url}/v1/usage", headers=headers) as response:
                    seen = (await response.json())["queue"]
                assert (seen["oldest_wait_ms"] > 0) is (seen["waiting"] > 0)
                found[key] = seen["running"], seen["waiting"], seen["position"]
            return found

        async def settled() -> bool:
            return await places() == {first: (0, 3, 1), second: (0, 3, 2), idle: (0, 3, None), blocker: (1, 0, None)}

        # Each worker reads the queue once a second.
        await eventually_async(settled, 8, poll_s=0.2)
        waits[0].cancel()
        await eventually_waiting(ledger_view, 2)

        async def moved() -> bool:
            return await places() == {first: (0, 2, None), second: (0, 2, 1), idle: (0, 2, None), blocker: (1, 0, None)}

        await eventually_async(moved, 8, poll_s=0.2)
        for each in (*waits, blocks):
            each.cancel()
        await asyncio.gather(*waits, blocks, return_exceptions=True)
        await eventually_waiting(ledger_view, 0)


async def test_a_full_queue_denies_at_once_and_a_wait_that_is_too_long_ends_with_503(queue: Stack) -> None:
    key, other = queue.new_key("crowd"), queue.new_key("blocker")
    async with clients(queue) as (session, ledger_view):
        await verify(session, key, other)
        blocks = asyncio.create_task(send(session, other, (MAX_WAIT_S + 6) * PACE_TOKENS_PER_S))
        await eventually_running(ledger_view)
        crowd = [asyncio.create_task(send(session, key, 5)) for _ in range(MAX_PER_TENANT)]
        await eventually_waiting(ledger_view, MAX_PER_TENANT)
        full = await send(session, key, 5)
        assert (full.status, full.code) == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        assert not any(each.done() for each in crowd)
        late = await asyncio.gather(*crowd)
        assert {(each.status, each.code) for each in late} == {(503, "queue_timeout")}
        assert all(int(each.headers["retry-after"]) >= 1 for each in late)
        assert not blocks.done()
        rows = await ledger_view.wait_for_rows([each.request_id for each in [full, *late]])
        assert all(len(found) == 1 for found in rows.values())
        assert all(rows[each.request_id][0]["queued_ms"] >= 1000 * MAX_WAIT_S for each in late)
        assert (await blocks).status == 200
        assert (await send(session, key, 5)).status == 200


@pytest.mark.parametrize("weight", [1, 3])
async def test_tenants_that_always_wait_share_the_tokens_by_weight(queue: Stack, weight: int) -> None:
    names = f"heavy-{weight}", f"light-{weight}"
    keys = [queue.new_key(name) for name in names]
    queue.cli("set-limits", "--tenant", names[0], "--weight", str(weight))
    async with clients(queue) as (session, ledger_view):
        await verify(session, *keys)
        begins = datetime.now(UTC) + timedelta(seconds=2)
        ends = begins + timedelta(seconds=SHARE_S)

        async def caller(key: str) -> None:
            while datetime.now(UTC) < ends:
                await send(session, key, 10)

        await asyncio.gather(*(caller(key) for key in keys for _ in range(MAX_PER_TENANT)))
        await ledger_view.wait_until_settled()
        rows = [await ledger_view.tenant_rows(await ledger_view.tenant_id(name)) for name in names]
    # The requests that got their slots while both tenants waited.
    tokens = [
        sum(row["input_tokens"] + row["output_tokens"] for row in each if begins <= row["ts"] < ends) for each in rows
    ]
    assert tokens[0] / tokens[1] == pytest.approx(weight, rel=0.1)


@pytest.mark.parametrize("victim", ["authz-0", "meter-0"])
async def test_a_killed_worker_loses_no_slot_and_no_request_has_two_rows(queue: Stack, victim: str) -> None:
    keys = [queue.new_key(f"{victim}-{number}") for number in range(3)]
    async with clients(queue) as (session, ledger_view):
        await verify(session, *keys)
        answers = [asyncio.create_task(send(session, key, 30)) for key in keys for _ in range(3)]
        await eventually_waiting(ledger_view, 8)
        os.kill(queue.pids(victim)[0], signal.SIGKILL)
        ended = await asyncio.gather(*answers, return_exceptions=True)
        whole = [each for each in ended if isinstance(each, Answer)]
        assert {each.status for each in whole} <= {200, 503}
        assert len(whole) >= len(ended) - 1
        later = await send(session, keys[0], 5)
        assert later.status == 200
        await ledger_view.wait_until_settled(60)
        rows = await ledger_view.wait_for_rows([each.request_id for each in whole])
        assert {len(found) for found in rows.values()} == {1}
        assert len(rows) == len(whole)

        async def idle() -> bool:
            status = await queue_of(ledger_view).status()
            return not status.tickets and not any(each.running for each in status.replicas.values())

        await eventually_async(idle, 20)


async def test_a_worker_that_stops_serves_the_requests_that_wait_there(queue: Stack) -> None:
    keys = [queue.new_key(f"stopped-{number}") for number in range(2)]
    async with clients(queue) as (session, ledger_view):
        await verify(session, *keys)
        answers = [asyncio.create_task(send(session, key, 30)) for key in keys for _ in range(3)]
        await eventually_waiting(ledger_view, 5)
        os.kill(queue.pids("authz-0")[0], signal.SIGTERM)
        assert {each.status for each in await asyncio.gather(*answers)} == {200}


async def test_requests_that_wait_go_on_or_get_503_when_redis_loses_its_data(queue: Stack) -> None:
    keys = [queue.new_key(f"flushed-{number}") for number in range(2)]
    async with clients(queue) as (session, ledger_view):
        await verify(session, *keys)
        answers = [asyncio.create_task(send(session, key, 50)) for key in keys for _ in range(3)]
        await eventually_waiting(ledger_view, 5)
        await ledger_view.redis.flushall()
        ended = await asyncio.gather(*answers)
        assert {each.status for each in ended} <= {200, 503}
        await ledger_view.wait_until_settled(60)
        rows = await ledger_view.wait_for_rows([each.request_id for each in ended])
        assert {len(found) for found in rows.values()} == {1}
        assert len(rows) == len(ended)

        async def served() -> bool:
            return (await send(session, keys[0], 5)).status == 200

        await eventually_async(served, 20)

        async def idle() -> bool:
            return await running(ledger_view) == 0

        await eventually_async(idle, 20)


def test_show_queue_names_every_replica_and_its_slots(queue: Stack, backend: Simulator) -> None:
    report = queue.cli("show-queue")
    assert report["backends"] == [
        {
            "name": "sim",
            "replicas": [{"url": backend.url, "slots": 1, "running": 0, "suspended": False}],
            "waiting": 0,
            "oldest_wait_ms": 0,
        }
    ]
    assert report["tenants"] == []
