"""Further attempts of requests in the meter."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gateway.errors import Code, Denied, StoreUnavailable
from gateway.queue.port import Ended, QueueTimeout, Turn, Waiting
from gateway.record.grant import ATTEMPT_HEADER
from gateway.rpc.methods import Message
from meter.attempts import AttemptCall, Attempts
from meter.metrics import QUEUE_MOVES
from tests.gateway.queue.builders import RULES, replicas, ticket
from tests.gateway.queue.model.queue import MemoryQueue
from tests.gateway.quota.builders import Clock
from tests.polling import eventually_async


class OneReply(MemoryQueue):
    """A queue that gives every request that moves the same place, or does not answer."""

    def __init__(self, reply: Turn | Waiting | QueueTimeout | Ended | None) -> None:
        super().__init__(Clock(), RULES)
        self.reply = reply
        self.moves: list[tuple[str, str, int]] = []

    async def move(self, request_id: str, replica: str, attempt: int) -> Turn | Waiting | QueueTimeout | Ended:
        self.moves.append((request_id, replica, attempt))
        if self.reply is None:
            raise StoreUnavailable("no answer")
        return self.reply


def attempt(
    queue: MemoryQueue, wait_max_s: float = 60.0, path: str = "/api/chat", number: str | None = "3"
) -> Awaitable[Message]:
    """The reply to a call about an attempt of the request `r` at `backend:b`."""
    message = ext_proc.ProcessingRequest(request_headers=ext_proc.HttpHeaders())
    message.request_headers.headers.headers.add(key="x-request-id", raw_value=b"r")
    message.attributes["envoy.filters.http.ext_proc"]["xds.cluster_name"] = "backend:b"
    if number is not None:
        message.attributes["envoy.filters.http.ext_proc"]["upstream.request_attempt_count"] = number
    call = AttemptCall(Attempts(queue, wait_max_s, poll_s=0.01), {ATTEMPT_HEADER: path.encode()})
    reply = call.receive(message)
    assert isinstance(reply, Awaitable)
    return reply


def moves() -> Counter[str]:
    """The counted moves by their result."""
    samples = (sample for family in QUEUE_MOVES.collect() for sample in family.samples)
    return Counter({each.labels["result"]: int(each.value) for each in samples if each.name.endswith("_total")})


@pytest.mark.parametrize("reply", [Turn("backend:b", 0, 0), Ended(), None])
async def test_an_attempt_goes_on_with_a_slot_and_when_nothing_is_known_of_one(reply: Turn | Ended | None) -> None:
    queue = OneReply(reply)
    message = await attempt(queue)
    assert queue.moves == [("r", "backend:b", 3)]
    assert message.WhichOneof("response") == "request_headers"


async def test_an_envoy_that_sends_no_number_moves_requests_too() -> None:
    queue = OneReply(Ended())
    await attempt(queue, number=None)
    assert queue.moves == [("r", "backend:b", 2)]


async def test_an_attempt_waits_for_a_slot_of_its_replica() -> None:
    queue = MemoryQueue(clock := Clock(), RULES)
    await queue.set_slots({"backend:a": 1, "backend:b": 1})
    first = ticket(request_id="r", candidates=replicas("backend:a"))
    other = ticket(candidates=replicas("backend:b"))
    for each in (first, other):
        assert isinstance(await queue.enter(each), Turn)
    waits = asyncio.ensure_future(attempt(queue))
    for _ in range(5):
        await asyncio.sleep(0.01)
        clock.forward(1)
    assert not waits.done()
    await queue.finish(other.request_id, 10)
    assert (await waits).HasField("request_headers")
    assert (await queue.status()).replicas["backend:b"].running == 1


@pytest.mark.parametrize(("path", "kind"), [("/api/chat", str), ("/v1/chat/completions", dict)])
async def test_an_attempt_that_waits_too_long_is_denied_in_the_dialect_of_its_path(path: str, kind: type) -> None:
    denial = (await attempt(OneReply(Waiting(0)), 0.02, path)).immediate_response
    headers = {option.header.key: option.header.raw_value for option in denial.headers.set_headers}
    assert denial.status.code == 503
    assert (headers["x-gateway-error"], headers["retry-after"]) == (b"queue_timeout", b"1")
    assert isinstance(json.loads(denial.body)["error"], kind)


async def test_a_denied_attempt_has_waited_as_long_as_the_longest_wait_allows() -> None:
    queue = OneReply(Waiting(0))
    with pytest.raises(Denied) as raised:
        await Attempts(queue, 0.05, poll_s=0.01).admit("r", "backend:b", 2)
    assert raised.value.code is Code.QUEUE_TIMEOUT
    assert len(queue.moves) > 1


async def test_an_attempt_of_a_request_that_has_waited_long_enough_is_denied_at_once() -> None:
    queue = OneReply(QueueTimeout(7))
    with pytest.raises(Denied) as raised:
        await Attempts(queue, 60.0).admit("r", "backend:b", 2)
    assert (raised.value.code, raised.value.retry_after_s) == (Code.QUEUE_TIMEOUT, 7)
    assert len(queue.moves) == 1


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (Turn("backend:b", 0, 0), "at_once"),
        (Turn("backend:a", 0, 0), "without_slot"),
        (Ended(), "without_slot"),
        (None, "without_slot"),
        (QueueTimeout(1), "timed_out"),
    ],
)
async def test_each_move_is_counted_once_by_its_result(reply: Turn | QueueTimeout | Ended | None, result: str) -> None:
    before = moves()
    await attempt(OneReply(reply))
    assert moves() - before == Counter({result: 1})


async def test_a_move_that_waited_is_counted_as_such() -> None:
    queue = OneReply(Waiting(0))
    before = moves()
    waits = asyncio.ensure_future(attempt(queue))
    await eventually_async(lambda: queue.moves, 5)
    queue.reply = Turn("backend:b", 0, 0)
    await waits
    assert moves() - before == Counter(waited=1)


async def test_an_attempt_that_waits_outlasts_a_store_that_does_not_answer_for_a_while() -> None:
    queue = OneReply(Waiting(0))
    before = moves()
    waits = asyncio.ensure_future(attempt(queue))
    await eventually_async(lambda: queue.moves, 5)
    queue.reply, called = None, len(queue.moves)
    await eventually_async(lambda: len(queue.moves) > called + 1, 5)
    queue.reply = Turn("backend:b", 0, 0)
    await waits
    assert moves() - before == Counter(waited=1)


async def test_an_attempt_that_waits_goes_on_when_the_store_does_not_answer_for_longer() -> None:
    queue = OneReply(Waiting(0))
    before = moves()
    admitted = asyncio.ensure_future(Attempts(queue, 60.0, poll_s=0.01, outage_max_s=0.05).admit("r", "backend:b", 2))
    await eventually_async(lambda: queue.moves, 5)
    queue.reply = None
    await admitted
    assert moves() - before == Counter(without_slot=1)
