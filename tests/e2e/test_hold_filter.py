"""The hold filter, envoy/hold_response.wat, in a real Envoy: which answers fail over, stream or pass unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from gateway.wire.names import SERVER_BUSY
from ops.data_plane.hold_filter import HOLD_RESPONSE_WAT, compile_wat
from tests.e2e.hold_filter_envoy import (
    ATTEMPTS_MAX,
    HOLD_RESPONSE_WASM,
    NO_METER,
    PATIENT,
    SHORT_TIMEOUT,
    UNFILTERED,
    running_envoy,
)
from tests.e2e.scripted_upstream import (
    FIRST,
    SECOND,
    Exchange,
    Script,
    Upstreams,
    chunk,
    closes_after,
    head,
    resets_after,
    sends,
    stalls_after,
)

JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"
HELD_WHOLE = (JSON, "application/json; charset=utf-8", "Application/JSON", "application/json\t;q=1")
STREAMED = (NDJSON, SSE, "application/json-seq", "application/jsonl", "application/jso", "text/plain", "", None)
FailsAfter = Callable[..., Script]
GOOD = b'{"from":"second"}\n'
WRONG = sends(head("text/plain", "content-length: 5"), b"wrong")
MIB = 1024 * 1024

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Bench:
    """A running Envoy, its upstreams, and a client."""

    upstreams: Upstreams
    client: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.client.get(path) as response:
            return response.status, await response.read()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    directory = tmp_path_factory.mktemp("hold")
    async with Upstreams().serving() as upstreams, running_envoy(directory, upstreams.ports) as url:
        timeout, connector = aiohttp.ClientTimeout(total=30), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as client:
            yield Bench(upstreams, client)


def complete_answer(content_type: str | None, body: bytes = GOOD) -> Script:
    return sends(head(content_type, f"content-length: {len(body)}"), body)


async def test_the_committed_module_equals_the_compiled_source() -> None:
    assert HOLD_RESPONSE_WASM.read_bytes() == compile_wat(HOLD_RESPONSE_WAT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("content_type", [JSON, NDJSON, SSE, None])
@pytest.mark.parametrize("fails_after", [resets_after, closes_after])
async def test_a_backend_that_fails_after_its_headers_is_replaced_invisibly(
    bench: Bench, fails_after: FailsAfter, content_type: str | None
) -> None:
    path = bench.upstreams.path(first=fails_after(head(content_type)), second=complete_answer(content_type))
    assert await bench.get(path) == (200, GOOD)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]


async def test_without_the_filter_the_same_failure_reaches_the_client(bench: Bench) -> None:
    path = bench.upstreams.path(first=closes_after(head(JSON)), second=complete_answer(JSON), under=UNFILTERED)
    async with bench.client.get(path) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert bench.upstreams.contacted[path] == [FIRST]


@pytest.mark.parametrize(("content_type", "sent"), [(NDJSON, b""), (SSE, b""), (JSON, b""), (JSON, chunk(b'{"half":'))])
async def test_a_backend_that_stalls_while_its_answer_is_held_is_replaced_invisibly(
    bench: Bench, content_type: str, sent: bytes
) -> None:
    stalling = stalls_after(head(content_type), sent)
    path = bench.upstreams.path(first=stalling, second=complete_answer(content_type), under=SHORT_TIMEOUT)
    assert await bench.get(path) == (200, GOOD)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]


@pytest.mark.parametrize("content_type", HELD_WHOLE)
@pytest.mark.parametrize("framing", ["content-length: 1000", "transfer-encoding: chunked"])
@pytest.mark.parametrize("fails_after", [resets_after, closes_after])
async def test_a_json_answer_cut_in_the_middle_is_replaced_invisibly(
    bench: Bench, fails_after: FailsAfter, framing: str, content_type: str
) -> None:
    half = b'{"half":' + b" " * 400
    sent = chunk(half) if "chunked" in framing else half
    path = bench.upstreams.path(
        first=fails_after(head(content_type, framing), sent), second=complete_answer(content_type)
    )
    assert await bench.get(path) == (200, GOOD)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]


async def test_a_large_json_answer_cut_near_its_end_is_replaced_invisibly(bench: Bench) -> None:
    failing = resets_after(head(JSON, f"content-length: {8 * MIB}"), b"a" * (8 * MIB - 1))
    path = bench.upstreams.path(first=failing, second=complete_answer(JSON))
    assert await bench.get(path) == (200, GOOD)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]


async def test_a_gateway_error_with_a_held_json_body_is_replaced_invisibly(bench: Bench) -> None:
    refusing = sends(head(JSON, "content-length: 2", status="503 Service Unavailable"), b"{}")
    path = bench.upstreams.path(first=refusing, second=complete_answer(JSON))
    assert await bench.get(path) == (200, GOOD)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
async def test_no_byte_of_a_held_answer_is_sent_when_every_backend_fails(bench: Bench, content_type: str) -> None:
    sent = chunk(b'{"half":') if content_type == JSON else b""
    failing = resets_after(head(content_type), sent)
    path = bench.upstreams.path(first=failing, second=failing)
    status, body = await bench.get(path)
    assert status == 502
    assert b"half" not in body
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]


@pytest.mark.parametrize("content_type", STREAMED)
async def test_a_stream_passes_chunk_by_chunk(bench: Bench, content_type: str | None) -> None:
    chunks = [b"%d\n" % number for number in range(5)]
    seen = [asyncio.Event() for _ in chunks]

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(content_type))
        for data, event in zip(chunks, seen, strict=True):
            await exchange.send(chunk(data))
            await event.wait()
        await exchange.send(chunk(b""))

    async with bench.client.get(bench.upstreams.path(first=script, second=WRONG)) as response:
        for data, event in zip(chunks, seen, strict=True):
            assert await response.content.readexactly(len(data)) == data
            event.set()
        assert await response.read() == b""


async def test_a_stream_cut_after_its_first_byte_is_not_continued_by_another_backend(bench: Bench) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(NDJSON), chunk(b"1\n"))
        await seen.wait()
        exchange.reset()

    path = bench.upstreams.path(first=script, second=WRONG)
    async with bench.client.get(path) as response:
        assert await response.content.readexactly(2) == b"1\n"
        seen.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert bench.upstreams.contacted[path] == [FIRST]


async def test_a_disconnect_cancels_a_held_answer_at_its_backend(bench: Bench) -> None:
    answering, ended = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(JSON), chunk(b'{"half":'))
        answering.set()
        await exchange.wait_disconnected()
        ended.set()

    path = bench.upstreams.path(first=script, second=WRONG)
    caller = asyncio.create_task(bench.get(path))
    async with asyncio.timeout(30):
        await answering.wait()
        caller.cancel()
        await ended.wait()
    assert bench.upstreams.contacted[path] == [FIRST]


@pytest.mark.parametrize("framing", [f"content-length: {8 * MIB}", "transfer-encoding: chunked"])
async def test_a_large_json_answer_passes_unchanged(bench: Bench, framing: str) -> None:
    body = bytes(range(256)) * (8 * MIB // 256)
    parts = [chunk(body), chunk(b"")] if "chunked" in framing else [body]
    path = bench.upstreams.path(first=sends(head(JSON, framing), *parts), second=WRONG)
    assert await bench.get(path) == (200, body)


async def test_a_json_answer_over_sixteen_mebibytes_is_released_and_passes_unchanged(bench: Bench) -> None:
    start, rest = b"a" * (17 * MIB), b"b" * (17 * MIB)
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(JSON, f"content-length: {len(start + rest)}"), start)
        await seen.wait()
        await exchange.send(rest)

    async with bench.client.get(bench.upstreams.path(first=script, second=WRONG)) as response:
        assert await response.content.readexactly(1) == b"a"
        seen.set()
        assert await response.read() == start[1:] + rest


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
@pytest.mark.parametrize(
    ("method", "status", "framing", "sent"),
    [
        ("HEAD", "200 OK", "content-length: 10", b""),
        ("GET", "204 No Content", "x-framing: none", b""),
        ("GET", "304 Not Modified", "x-framing: none", b""),
        ("GET", "200 OK", "content-length: 0", b""),
        ("GET", "200 OK", "transfer-encoding: chunked", b"0\r\n\r\n"),
        ("GET", "200 OK", "transfer-encoding: chunked", b"0\r\nx-sum: 0\r\n\r\n"),
    ],
)
async def test_an_answer_without_a_body_passes(
    bench: Bench, method: str, status: str, framing: str, sent: bytes, content_type: str
) -> None:
    path = bench.upstreams.path(first=sends(head(content_type, framing, status=status), sent), second=WRONG)
    async with bench.client.request(method, path) as response:
        assert (response.status, await response.read()) == (int(status[:3]), b"")
    assert bench.upstreams.contacted[path] == [FIRST]


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
async def test_trailers_end_the_hold(bench: Bench, content_type: str) -> None:
    answer = sends(head(content_type), chunk(b"[1]"), b"0\r\nx-sum: 1\r\n\r\n")
    assert await bench.get(bench.upstreams.path(first=answer, second=WRONG)) == (200, b"[1]")


@dataclass(frozen=True)
class ConcurrentCase:
    """One of many concurrent answers, and what its client must receive."""

    path: str
    halves: tuple[bytes, bytes]
    seen: asyncio.Event
    contacted: list[str]


def concurrent_case(upstreams: Upstreams, number: int, all_started: asyncio.Barrier) -> ConcurrentCase:
    """Four kinds in rotation: a JSON answer, one cut in the middle, a stream, and a failure after the headers."""
    halves = (b"%d " % number * 100, b"%d.\n" % number * 1000)
    kind, seen = number % 4, asyncio.Event()
    content_type = JSON if kind < 2 else (NDJSON, SSE)[number // 4 % 2]

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(content_type), *([chunk(halves[0])] if kind != 3 else []))
        if kind == 2:
            await seen.wait()
        await all_started.wait()
        if kind in (1, 3):
            exchange.reset()
        else:
            await exchange.send(chunk(halves[1]), chunk(b""))

    fails_over = kind in (1, 3)
    path = upstreams.path(first=script, second=complete_answer(content_type, b"".join(halves)) if fails_over else WRONG)
    return ConcurrentCase(path, halves, seen, [FIRST, SECOND] if fails_over else [FIRST])


async def test_two_hundred_concurrent_answers_are_not_mixed_up(bench: Bench) -> None:
    all_started = asyncio.Barrier(200)
    answers = [concurrent_case(bench.upstreams, number, all_started) for number in range(200)]

    async def fetch(answer: ConcurrentCase) -> bytes:
        async with bench.client.get(answer.path) as response:
            first = await response.content.readexactly(len(answer.halves[0]))
            answer.seen.set()
            return first + await response.read()

    bodies = await asyncio.gather(*(fetch(answer) for answer in answers))
    assert bodies == [b"".join(answer.halves) for answer in answers]
    assert [bench.upstreams.contacted[answer.path] for answer in answers] == [answer.contacted for answer in answers]


BUSY_BODY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'
ERROR_BODY = b'{"error":"llama runner process has terminated"}'


def answers_with(*answers: Script) -> Script:
    """One answer after another, the last one repeatedly."""
    left = list(answers)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


def failure(status: str, body: bytes = ERROR_BODY) -> Script:
    return sends(head(JSON, f"content-length: {len(body)}", status=status), body)


BUSY = failure("503 Service Unavailable", BUSY_BODY)
TIMEOUT = stalls_after()
CHAT_ANSWER = sends(head(JSON, "content-length: 14"), b'{"message":{}}')


async def test_a_busy_server_is_tried_again_after_the_list_is_used(bench: Bench) -> None:
    path = bench.upstreams.path(
        first=BUSY, second=answers_with(BUSY, BUSY, CHAT_ANSWER), under=PATIENT, surface="/api/chat"
    )
    assert await bench.get(path) == (200, b'{"message":{}}')
    assert bench.upstreams.contacted[path] == [FIRST, SECOND, SECOND, SECOND]


async def test_a_server_that_stays_busy_is_tried_a_bounded_number_of_times(bench: Bench) -> None:
    path = bench.upstreams.path(first=BUSY, second=BUSY, under=PATIENT, surface="/api/chat")
    assert await bench.get(path) == (SERVER_BUSY, BUSY_BODY)
    assert len(bench.upstreams.contacted[path]) == ATTEMPTS_MAX


@pytest.mark.parametrize(
    "fails",
    [
        failure("500 Internal Server Error"),
        failure("503 Service Unavailable"),
        failure("502 Bad Gateway"),
        WRONG,
        TIMEOUT,
        resets_after(),
        resets_after(head(JSON)),
        closes_after(head(NDJSON)),
    ],
)
@pytest.mark.parametrize("after_busy", [False, True])
async def test_another_failure_is_final_once_the_list_is_used(bench: Bench, fails: Script, after_busy: bool) -> None:
    second = answers_with(BUSY, fails) if after_busy else fails
    path = bench.upstreams.path(first=fails, second=second, under=PATIENT, surface="/api/chat")
    status, _ = await bench.get(path)
    assert status >= 500
    assert status != SERVER_BUSY
    assert (status == 504) is (fails is TIMEOUT)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND, *([SECOND] if after_busy else [])]


async def test_the_sentence_in_another_answer_is_not_a_busy_server(bench: Bench) -> None:
    body = b'{"message":{"content":"server busy, please try again.  maximum pending requests exceeded"}}'
    answer = sends(head(JSON, f"content-length: {len(body)}"), body)
    path = bench.upstreams.path(first=answer, second=answer, under=PATIENT, surface="/api/chat")
    assert await bench.get(path) == (200, body)


async def test_no_backend_receives_an_internal_header_when_no_meter_answers_about_the_attempt(bench: Bench) -> None:
    path = bench.upstreams.path(first=resets_after(), second=complete_answer(NDJSON), under=NO_METER)
    assert await bench.get(path) == (200, GOOD)
    assert bench.upstreams.contacted[path] == [FIRST, SECOND]
    assert [head.lower().count(b"\r\nx-nz-") for head in bench.upstreams.heads[path]] == [0, 0]
