"""Every way for a backend to fail, at every place of the list, one by one and all at random."""

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
from tests.e2e.three_backends import CONNECTIONS_MAX, Site, body_of, three_backends

DIALECTS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
CHAOS_REQUESTS = 2000
CHAOS_AT_ONCE = 16
SEED = 20_261_121

# Name of the way to fail: how the simulated backend does it, and what a caller is told when every backend does so.
UNAVAILABLE, ERROR, TIMEOUT = (503, "backend_unavailable"), (502, "backend_error"), (504, "backend_timeout")
FAULTS: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "RST before headers": ({"kind": "reset"}, UNAVAILABLE),
    "FIN before headers": ({"kind": "close"}, UNAVAILABLE),
    "502": ({"kind": "status", "status": 502}, ERROR),
    "503": ({"kind": "status", "status": 503}, UNAVAILABLE),
    "504": ({"kind": "status", "status": 504}, TIMEOUT),
    "headers, then RST": ({"kind": "reset", "after_frames": 0}, UNAVAILABLE),
    "headers, then FIN": ({"kind": "close", "after_frames": 0}, UNAVAILABLE),
    "JSON cut in the middle": ({"kind": "reset", "after_frames": 1}, UNAVAILABLE),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with three_backends(tmp_path_factory.mktemp("three")) as site:
        yield site


@pytest.fixture(autouse=True)
def _healed(site: Site) -> None:
    site.heal()


def complete(answer: httpx.Response) -> bool:
    """Whether it is a whole answer of /api/chat, streamed or not."""
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text.splitlines()[-1])["done"] is True


def check_served(site: Site, served: dict[str, tuple[str, list[str]]]) -> None:
    """Request id -> who served it, and who was asked in turn; the backends' records and the audit rows must say so."""
    heard, rows = site.heard(), site.rows(served)
    for request_id, (backend, asked) in served.items():
        assert [attempt.backend for attempt in heard[request_id]] == asked
        truth, row = heard[request_id][-1].record, rows[request_id]
        assert (row["backend"], row["outcome"], row["status"]) == (backend, "complete", 200)
        assert (row["input_tokens"], row["output_tokens"]) == (truth["prompt_tokens"], truth["output_tokens"])


def check_refused(site: Site, answers: dict[str, httpx.Response], code: tuple[int, str]) -> None:
    """Path -> answer when all places failed: told in the caller's dialect, recorded, and nothing is held or counted."""
    assert {(answer.status_code, answer.headers["x-gateway-error"]) for answer in answers.values()} == {code}
    for path, answer in answers.items():
        document = answer.json()
        message = document["error"] if path.startswith("/api/") else document["error"]["message"]
        assert isinstance(message, str)
        assert (document.get("type") == "error") == (path == "/v1/messages")
        assert "127.0.0.1" not in answer.text
    ids = [answer.headers["x-request-id"] for answer in answers.values()]
    rows = site.rows(ids)
    for row in (rows[request_id] for request_id in ids):
        assert (row["status"], row["code"], row["outcome"]) == (*code, "upstream_error")
        assert (row["input_tokens"], row["output_tokens"]) == (0, 0)
    site.nothing_is_held()


def failures(replica: Simulator) -> int:
    return sum(record["finished"] == "failed" for record in replica.requests())


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_before_an_answer_goes_down_is_taken_over_by_the_next_place(site: Site, fault: str) -> None:
    how, code = FAULTS[fault]
    number = list(FAULTS).index(fault)
    whole = "JSON" in fault  # A stream that is cut in the middle has gone down already.
    one, other = site.backends["twin"]
    served: dict[str, tuple[str, list[str]]] = {}

    def expect(backend: str, asked: list[str]) -> None:
        # Few requests for each fault, or the failing replicas would be ejected: every other one is a stream.
        answer = site.ask(stream=not whole and (number + len(asked)) % 2 == 0)
        assert complete(answer)
        served[answer.headers["x-request-id"]] = (backend, asked)

    before = failures(one)
    one.behave(faults=[how])
    for _ in range(50):
        answer = site.ask()
        assert complete(answer)
        failed = failures(one) > before
        served[answer.headers["x-request-id"]] = ("twin", ["twin", "twin"] if failed else ["twin"])
        if failed:
            break
    other.behave(faults=[how])
    expect("safe", ["twin", "twin", "safe"])
    site.backends["safe"][0].behave(faults=[how])
    expect("bare", ["twin", "twin", "safe", "bare"])
    check_served(site, served)
    site.backends["bare"][0].behave(faults=[how])
    path = DIALECTS[number % len(DIALECTS)]
    check_refused(site, {path: site.ask(path)}, code)


def test_a_backend_that_refuses_connections_is_passed_over(site: Site) -> None:
    for stopped, backend in enumerate(("twin", "safe", "bare")):
        site.replicas[stopped].stop()
        answers = [site.ask(stream=stream) for stream in (False, True)]
        assert all(complete(answer) for answer in answers)
        check_served(site, {answer.headers["x-request-id"]: (backend, [backend]) for answer in answers})
    site.replicas[-1].stop()
    check_refused(site, {path: site.ask(path) for path in DIALECTS}, UNAVAILABLE)


def test_a_backend_that_stalls_before_its_answer_is_given_up(site: Site) -> None:
    one, other = site.backends["twin"]
    one.behave(faults=[{"kind": "stall"}])
    other.behave(faults=[{"kind": "stall", "after_frames": 0}])
    site.backends["bare"][0].behave(faults=[{"kind": "stall", "after_frames": 0}])
    with ThreadPoolExecutor() as pool:
        taken_over = [pool.submit(site.ask, stream=stream) for stream in (False, True)]
        refused = {path: pool.submit(site.ask, path, model="bare") for path in DIALECTS}
        answers = [future.result() for future in taken_over]
    assert all(complete(answer) for answer in answers)
    check_served(site, {answer.headers["x-request-id"]: ("safe", ["twin", "twin", "safe"]) for answer in answers})
    check_refused(site, {path: future.result() for path, future in refused.items()}, TIMEOUT)


def test_a_healthy_replica_is_found_however_busy_it_is(site: Site) -> None:
    """The sick one answers at once, and so always has the fewest requests."""
    sick, healthy = site.backends["twin"]
    sick.behave(faults=[{"kind": "reset"}])
    healthy.behave(first_byte_s=0.3)
    answers = storm(site, [("/api/chat", body_of("/api/chat", False, "twin"))] * 24, at_once=8)
    assert {answer.status for answer in answers} == {200}


def test_who_comes_when_every_connection_and_every_place_to_wait_is_taken_is_refused(site: Site) -> None:
    site.backends["bare"][0].behave(faults=[{"kind": "stall", "times": 2 * CONNECTIONS_MAX}])
    paths = [DIALECTS[number % 3] for number in range(CONNECTIONS_MAX * 17 + 40)]
    answers = storm(site, [(path, body_of(path, False, "bare")) for path in paths], at_once=len(paths))
    overflow = [answer for answer in answers if (answer.status, answer.code) == UNAVAILABLE]
    assert {answer.path for answer in overflow} == set(DIALECTS)
    rows = site.rows(answer.request_id for answer in answers)
    for row in (rows[answer.request_id] for answer in overflow):
        assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("upstream_error", 0, 0)
    site.nothing_is_held()


def test_two_thousand_requests_over_backends_that_fail_at_random_are_all_answered_whole(site: Site) -> None:
    whole, streamed = ("/api/generate", "/v1/chat/completions", "/v1/embeddings"), ("/api/chat", "/v1/messages")
    faults = [
        {**how, "probability": 0.06, "paths": whole if "JSON" in name else ()} for name, (how, _) in FAULTS.items()
    ]
    faults.append({"kind": "stall", "after_frames": 0, "probability": 0.003})
    for number, replica in enumerate((*site.backends["twin"], *site.backends["safe"])):
        replica.behave(faults=faults, seed=SEED + number)
    dice = random.Random(SEED)  # noqa: S311 (nothing secret)
    paths = dice.choices((*whole, *streamed), k=CHAOS_REQUESTS)
    answers = storm(site, [(path, body_of(path, path in streamed)) for path in paths], at_once=CHAOS_AT_ONCE)
    assert [answer for answer in answers if answer.status != 200] == []
    assert [answer for answer in answers if not is_whole(answer)] == []

    ids = [answer.request_id for answer in answers]
    heard, rows = site.heard(), site.rows(ids)
    for request_id in ids:
        *before, last = heard[request_id]
        assert all(attempt.record["finished"] != "complete" for attempt in before)
        row, truth = rows[request_id], last.record
        assert (row["backend"], row["outcome"], row["status"]) == (last.backend, "complete", 200)
        assert (row["input_tokens"], row["output_tokens"]) == (truth["prompt_tokens"], truth["output_tokens"])
    # The dice did fall on every backend, and on many failures.
    assert {heard[request_id][-1].backend for request_id in ids} == set(site.backends)
    assert sum(len(heard[request_id]) > 1 for request_id in ids) > CHAOS_REQUESTS // 10
    assert site.nothing_is_held() == sum(row["input_tokens"] + row["output_tokens"] for row in rows.values())


@dataclass(frozen=True)
class Answer:
    """What came of one request of a storm."""

    path: str
    status: int
    code: str | None
    request_id: str
    text: str


def storm(site: Site, requests: Sequence[tuple[str, dict[str, Any]]], at_once: int) -> list[Answer]:
    """Sends all of them, so many at a time."""

    async def send(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Answer:
        async with session.post(path, json=body, headers={"x-api-key": site.key}) as answer:
            headers, text = answer.headers, await answer.text()
            return Answer(path, answer.status, headers.get("x-gateway-error"), headers["x-request-id"], text)

    async def send_all() -> list[Answer]:
        connector, timeout = aiohttp.TCPConnector(limit=at_once), aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(site.stack.url, connector=connector, timeout=timeout) as session:
            return await asyncio.gather(*(send(session, path, body) for path, body in requests))

    return asyncio.run(send_all())


def is_whole(answer: Answer) -> bool:
    """Whether an answer of 200 has its end."""
    match answer.path:
        case "/api/chat" | "/api/generate":
            return json.loads(answer.text.splitlines()[-1]).get("done") is True
        case "/v1/messages":
            return answer.text.rstrip().endswith('{"type":"message_stop"}')
        case "/v1/embeddings":
            return len(json.loads(answer.text)["data"][0]["embedding"]) > 0
        case _:
            return bool(json.loads(answer.text)["choices"][0]["finish_reason"])
