"""Every kind of backend failure at every position of the backend list, one by one and at random."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest

from tests.e2e.stack import Simulator
from tests.e2e.three_backends import CONNECTIONS_MAX, BackendStack, request_body, three_backends

DIALECTS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
CHAOS_REQUESTS = 1000
CHAOS_CONCURRENCY = 16
SEED = 20_261_121

# Name of a failure: the fault of the simulated backend, and the error when every backend fails in this way.
UNAVAILABLE, ERROR, TIMEOUT = (503, "backend_unavailable"), (502, "backend_error"), (504, "backend_timeout")
FAULTS: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "RST before headers": ({"kind": "reset"}, UNAVAILABLE),
    "FIN before headers": ({"kind": "close"}, UNAVAILABLE),
    "502": ({"kind": "status", "status": 502}, ERROR),
    "503": ({"kind": "status", "status": 503, "message": "not yet"}, UNAVAILABLE),
    "server busy": ({"kind": "status", "status": 503}, UNAVAILABLE),
    "504": ({"kind": "status", "status": 504}, TIMEOUT),
    "headers, then RST": ({"kind": "reset", "after_frames": 0}, UNAVAILABLE),
    "headers, then FIN": ({"kind": "close", "after_frames": 0}, UNAVAILABLE),
    "JSON cut in the middle": ({"kind": "reset", "after_frames": 1}, UNAVAILABLE),
}


@pytest.fixture(scope="module")
def backend_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendStack]:
    with three_backends(tmp_path_factory.mktemp("three")) as backend_stack:
        yield backend_stack


@pytest.fixture(autouse=True)
def _restored(backend_stack: BackendStack) -> None:
    backend_stack.restore()


def is_complete_chat(answer: httpx.Response) -> bool:
    """Whether this is a complete answer of /api/chat, streamed or not."""
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text.splitlines()[-1])["done"] is True


def check_served(backend_stack: BackendStack, served: dict[str, tuple[str, list[str]]]) -> None:
    """Checks the backends' records and the audit rows.

    `served` maps a request id to the backend that served it and to the backends of all its attempts, in order.
    """
    attempts, rows = backend_stack.attempts(), backend_stack.rows(served)
    for request_id, (backend, attempted) in served.items():
        assert [attempt.backend for attempt in attempts[request_id]] == attempted
        record, row = attempts[request_id][-1].record, rows[request_id]
        assert (row["backend"], row["outcome"], row["status"]) == (backend, "complete", 200)
        assert (row["input_tokens"], row["output_tokens"]) == (record["prompt_tokens"], record["output_tokens"])


def check_refused(backend_stack: BackendStack, answers: dict[str, httpx.Response], code: tuple[int, str]) -> None:
    """Checks the answers, by path, after all backends failed: each is in its dialect, recorded and not charged."""
    assert {(answer.status_code, answer.headers["x-gateway-error"]) for answer in answers.values()} == {code}
    for path, answer in answers.items():
        document = answer.json()
        message = document["error"] if path.startswith("/api/") else document["error"]["message"]
        assert isinstance(message, str)
        assert (document.get("type") == "error") == (path == "/v1/messages")
        assert "127.0.0.1" not in answer.text
    ids = [answer.headers["x-request-id"] for answer in answers.values()]
    rows = backend_stack.rows(ids)
    for row in (rows[request_id] for request_id in ids):
        assert (row["status"], row["code"], row["outcome"]) == (*code, "upstream_error")
        assert (row["input_tokens"], row["output_tokens"]) == (0, 0)
    backend_stack.used_once_settled()


def failures(replica: Simulator) -> int:
    return sum(record["finished"] == "failed" for record in replica.requests())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_before_the_first_byte_of_the_answer_fails_over_to_the_next_backend(
    backend_stack: BackendStack, fault: str
) -> None:
    behaviour, code = FAULTS[fault]
    number = list(FAULTS).index(fault)
    # A stream that breaks off in the middle has reached the client already.
    whole_only = "JSON" in fault
    one, other = backend_stack.backends["twin"]
    served: dict[str, tuple[str, list[str]]] = {}

    def expect(backend: str, attempted: list[str]) -> None:
        # Every other request is a stream. More requests per fault would eject the failing replicas.
        answer = backend_stack.send(stream=not whole_only and (number + len(attempted)) % 2 == 0)
        assert is_complete_chat(answer)
        served[answer.headers["x-request-id"]] = (backend, attempted)

    before = failures(one)
    one.behave(faults=[behaviour])
    for _ in range(50):
        answer = backend_stack.send()
        assert is_complete_chat(answer)
        failed = failures(one) > before
        served[answer.headers["x-request-id"]] = ("twin", ["twin", "twin"] if failed else ["twin"])
        if failed:
            break
    other.behave(faults=[behaviour])
    expect("safe", ["twin", "twin", "safe"])
    backend_stack.backends["safe"][0].behave(faults=[behaviour])
    expect("bare", ["twin", "twin", "safe", "bare"])
    check_served(backend_stack, served)
    backend_stack.backends["bare"][0].behave(faults=[behaviour])
    path = DIALECTS[number % len(DIALECTS)]
    check_refused(backend_stack, {path: backend_stack.send(path)}, code)


def test_a_backend_that_refuses_connections_is_skipped(backend_stack: BackendStack) -> None:
    for stopped, backend in enumerate(("twin", "safe", "bare")):
        backend_stack.replicas[stopped].stop()
        answers = [backend_stack.send(stream=stream) for stream in (False, True)]
        assert all(is_complete_chat(answer) for answer in answers)
        check_served(backend_stack, {answer.headers["x-request-id"]: (backend, [backend]) for answer in answers})
    backend_stack.replicas[-1].stop()
    check_refused(backend_stack, {path: backend_stack.send(path) for path in DIALECTS}, UNAVAILABLE)


def test_a_backend_that_stalls_before_its_answer_times_out_and_the_next_one_serves(backend_stack: BackendStack) -> None:
    one, other = backend_stack.backends["twin"]
    one.behave(faults=[{"kind": "stall"}])
    other.behave(faults=[{"kind": "stall", "after_frames": 0}])
    backend_stack.backends["bare"][0].behave(faults=[{"kind": "stall", "after_frames": 0}])
    with ThreadPoolExecutor() as pool:
        failed_over = [pool.submit(backend_stack.send, stream=stream) for stream in (False, True)]
        refused = {path: pool.submit(backend_stack.send, path, model="bare") for path in DIALECTS}
        answers = [future.result() for future in failed_over]
    assert all(is_complete_chat(answer) for answer in answers)
    check_served(
        backend_stack, {answer.headers["x-request-id"]: ("safe", ["twin", "twin", "safe"]) for answer in answers}
    )
    check_refused(backend_stack, {path: future.result() for path, future in refused.items()}, TIMEOUT)


def test_a_busy_healthy_replica_serves_what_a_failing_replica_rejects(backend_stack: BackendStack) -> None:
    """The failing replica fails at once and therefore always has the fewest active requests."""
    failing, healthy = backend_stack.backends["twin"]
    failing.behave(faults=[{"kind": "reset"}])
    healthy.behave(first_byte_s=0.3)
    answers = send_concurrently(
        backend_stack, [("/api/chat", request_body("/api/chat", False, "twin"))] * 24, concurrency=8
    )
    assert {answer.status for answer in answers} == {200}


def test_requests_beyond_all_connections_and_the_pending_queue_are_refused(
    backend_stack: BackendStack,
) -> None:
    backend_stack.backends["bare"][0].behave(faults=[{"kind": "stall", "times": 2 * CONNECTIONS_MAX}])
    paths = [DIALECTS[number % 3] for number in range(CONNECTIONS_MAX * 17 + 40)]
    answers = send_concurrently(
        backend_stack, [(path, request_body(path, False, "bare")) for path in paths], concurrency=len(paths)
    )
    overflow = [answer for answer in answers if (answer.status, answer.code) == UNAVAILABLE]
    assert {answer.path for answer in overflow} == set(DIALECTS)
    rows = backend_stack.rows(answer.request_id for answer in answers)
    for row in (rows[answer.request_id] for answer in overflow):
        assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("upstream_error", 0, 0)
    backend_stack.used_once_settled()


def test_every_request_is_answered_completely_while_backends_fail_at_random(
    backend_stack: BackendStack,
) -> None:
    whole, streamed = ("/api/generate", "/v1/chat/completions", "/v1/embeddings"), ("/api/chat", "/v1/messages")
    faults = [
        {**behaviour, "probability": 0.06, "paths": whole if "JSON" in name else ()}
        for name, (behaviour, _) in FAULTS.items()
    ]
    faults.append({"kind": "stall", "after_frames": 0, "probability": 0.003})
    for number, replica in enumerate((*backend_stack.backends["twin"], *backend_stack.backends["safe"])):
        replica.behave(faults=faults, seed=SEED + number)
    rng = random.Random(SEED)  # noqa: S311 (nothing secret)
    paths = rng.choices((*whole, *streamed), k=CHAOS_REQUESTS)
    answers = send_concurrently(
        backend_stack, [(path, request_body(path, path in streamed)) for path in paths], concurrency=CHAOS_CONCURRENCY
    )
    assert [answer for answer in answers if answer.status != 200] == []
    assert [answer for answer in answers if not is_complete(answer)] == []

    ids = [answer.request_id for answer in answers]
    attempts, rows = backend_stack.attempts(), backend_stack.rows(ids)
    for request_id in ids:
        *failed, last = attempts[request_id]
        assert all(attempt.record["finished"] != "complete" for attempt in failed)
        row, record = rows[request_id], last.record
        assert (row["backend"], row["outcome"], row["status"]) == (last.backend, "complete", 200)
        assert (row["input_tokens"], row["output_tokens"]) == (record["prompt_tokens"], record["output_tokens"])
    # Every backend served some requests, and many requests failed over.
    assert {attempts[request_id][-1].backend for request_id in ids} == set(backend_stack.backends)
    assert sum(len(attempts[request_id]) > 1 for request_id in ids) > CHAOS_REQUESTS // 10
    assert backend_stack.used_once_settled() == sum(row["input_tokens"] + row["output_tokens"] for row in rows.values())


@dataclass(frozen=True)
class ConcurrentAnswer:
    """The answer to one request of `send_concurrently`."""

    path: str
    status: int
    code: str | None
    request_id: str
    text: str


def send_concurrently(
    backend_stack: BackendStack, requests: Sequence[tuple[str, dict[str, Any]]], concurrency: int
) -> list[ConcurrentAnswer]:
    """Sends all requests, at most `concurrency` at a time. Returns the answers in the same order."""

    async def send(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> ConcurrentAnswer:
        async with session.post(path, json=body, headers={"x-api-key": backend_stack.key}) as answer:
            headers, text = answer.headers, await answer.text()
            return ConcurrentAnswer(path, answer.status, headers.get("x-gateway-error"), headers["x-request-id"], text)

    async def send_all() -> list[ConcurrentAnswer]:
        connector, timeout = aiohttp.TCPConnector(limit=concurrency), aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(backend_stack.stack.url, connector=connector, timeout=timeout) as session:
            return await asyncio.gather(*(send(session, path, body) for path, body in requests))

    return asyncio.run(send_all())


def is_complete(answer: ConcurrentAnswer) -> bool:
    """Whether an answer with status 200 is complete."""
    match answer.path:
        case "/api/chat" | "/api/generate":
            return json.loads(answer.text.splitlines()[-1]).get("done") is True
        case "/v1/messages":
            return answer.text.rstrip().endswith('{"type":"message_stop"}')
        case "/v1/embeddings":
            return len(json.loads(answer.text)["data"][0]["embedding"]) > 0
        case _:
            return bool(json.loads(answer.text)["choices"][0]["finish_reason"])
