"""Envoy's edge: every odd request has one allowed answer, and a backend sees nothing of it, or what it should."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing

import pytest

from tests.e2e.conftest import REQUEST_ID_HEADER
from tests.e2e.ledger_view import opened, row_of
from tests.e2e.sockets import NOTHING, Answer, connected, read_answer, send, send_h2
from tests.e2e.stack import Simulator, Stack

CHAT = {"model": "llama3.2:latest", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
BODY = json.dumps(CHAT).encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d" % len(BODY)
# All that a backend may be told; its credential is its own.
TOLD = {"host", "authorization", "content-type", "content-length", "accept", "x-request-id"}
CURIOUS = {
    "X-Request-ID": "mine",
    "X-Nz-Peer": "203.0.113.9",
    "X-Nz-Anything": "1",
    "X-Envoy-Max-Retries": "99",
    "X-Envoy-Original-Path": "/api/pull",
    "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
    "X-Envoy-Decorator-Operation": "x",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=203.0.113.7",
    "Via": "1.1 evil",
    "Origin": "https://evil.example",
    "Cookie": "a=b",
    "TE": "trailers",
}


class Edge:
    """Sends requests with a valid key; `asked` is what both backends saw since."""

    def __init__(self, stack: Stack, key: str, backends: tuple[Simulator, Simulator]) -> None:
        self.url = stack.url
        self.key = key.encode()
        self._backends = backends
        self._before = self._seen()

    def bytes_of(
        self,
        target: bytes = b"/api/chat",
        *lines: bytes,
        method: bytes = b"POST",
        version: bytes = b"HTTP/1.1",
        body: bytes = BODY,
        framing: bytes | None = LENGTH,
        key: bool = True,
        host: bytes | None = b"Host: gateway.example",
    ) -> bytes:
        """A request; `lines` are more header lines."""
        authorization = b"Authorization: Bearer " + self.key if key else None
        head = [b"%s %s %s" % (method, target, version), host, authorization, framing, *lines]
        return b"\r\n".join([*(line for line in head if line is not None), b"", body])

    def asked(self) -> int:
        """How many requests reached a backend since this was made."""
        return self._seen() - self._before

    def _seen(self) -> int:
        return sum(len(backend.requests()) for backend in self._backends)


@pytest.fixture(scope="module")
def slow_headers(stack: Stack) -> Iterator[socket.socket]:
    """A connection whose request never has all its headers, opened before the other tests and looked at after them."""
    with closing(connected(stack.url)) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: gateway.example\r\nX-Slow: ")
        yield connection


@pytest.fixture
def edge(stack: Stack, key: str, ollama: Simulator, spare: Simulator, slow_headers: socket.socket) -> Edge:
    return Edge(stack, key, (ollama, spare))


def check_served(stack: Stack, ollama: Simulator, edge: Edge, answer: Answer) -> None:
    """One backend saw one request, as it would have seen the plainest one, and there is one row."""
    assert answer.status == 200, answer
    assert json.loads(answer.body)["done"]
    assert answer.headers[REQUEST_ID_HEADER.lower()] == answer.request_id
    assert edge.asked() == 1
    (seen,) = ollama.requests(answer.request_id)
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/api/chat", "")
    assert set(seen["headers"]) <= TOLD
    assert seen["headers"]["content-type"] == "application/json"
    assert int(seen["headers"]["content-length"]) == len(seen["body"].encode())
    assert edge.key.decode() not in str(seen)
    assert json.loads(seen["body"])["messages"] == CHAT["messages"]
    row = row_of(stack, answer.request_id)
    assert (row["path"], row["outcome"], row["status"]) == ("/api/chat", "complete", 200)


def check_refused(edge: Edge, answer: Answer, status: int, code: str) -> None:
    """A documented error with words and an id, and no backend heard of it."""
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.request_id)
    assert answer.headers[REQUEST_ID_HEADER.lower()] == answer.request_id
    assert "server" not in answer.headers
    if answer.body:
        assert json.loads(answer.body)["error"]
    assert edge.asked() == 0


@pytest.mark.parametrize(
    "target",
    [
        b"/api/chat?x=y&model=evil",
        b"//api/chat",
        b"/./api//chat",
        b"/api/../api/chat",
        b"/api/.%2e/api/chat",
        b"/api/%63hat",
        b"/api\\chat",
        b"http://evil.example/api/chat",
    ],
)
def test_another_spelling_of_a_surface_is_that_surface(
    stack: Stack, ollama: Simulator, edge: Edge, target: bytes
) -> None:
    check_served(stack, ollama, edge, send(edge.url, edge.bytes_of(target)))


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (b"/api/../api/pull", 403, "endpoint_blocked"),
        (b"/api/%70ull", 403, "endpoint_blocked"),
        (b"/api/chat/", 403, "endpoint_blocked"),
        (b"/api/chat;x=1", 403, "endpoint_blocked"),
        (b"/api/chat%20", 403, "endpoint_blocked"),
        (b"/api/chat%0a", 403, "endpoint_blocked"),
        (b"/api/chat%", 403, "endpoint_blocked"),
        (b"/v1/chat/completions/", 403, "endpoint_blocked"),
        (b"/API/CHAT", 404, "not_found"),
        (b"/..", 404, "not_found"),
        (b"/", 404, "not_found"),
        (b"/_sim/requests", 404, "not_found"),
        (b"/api%2fchat", 400, "invalid_request"),
        (b"/api%5Cchat", 400, "invalid_request"),
        (b"/v1/messages%2f", 400, "invalid_request"),
        (b"/api/chat%00", 400, "invalid_request"),
        (b"/api/chat#fragment", 400, "invalid_request"),
        (b"/api/ch\xc3\xa9t", 400, "invalid_request"),
        (b"*", 400, "invalid_request"),
        (b"api/chat", 400, "invalid_request"),
        (b"/" + b"a" * 40_000, 413, "request_too_large"),
    ],
)
def test_a_path_that_is_no_surface_never_reaches_a_backend(edge: Edge, target: bytes, status: int, code: str) -> None:
    check_refused(edge, send(edge.url, edge.bytes_of(target)), status, code)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"PATCH", b"DELETE"])
def test_a_surface_answers_to_post_alone(edge: Edge, method: bytes) -> None:
    answer = send(edge.url, edge.bytes_of(method=method, body=b"", framing=None), method.decode())
    check_refused(edge, answer, 405, "method_not_allowed")
    assert bool(answer.body) == (method != b"HEAD")


@pytest.mark.parametrize("method", [b"post", b"FOO", b"PRI", b"PO ST", b"CONNECT", b"G\x00T"])
def test_a_method_that_is_none_is_refused(edge: Edge, method: bytes) -> None:
    check_refused(edge, send(edge.url, edge.bytes_of(method=method)), 400, "invalid_request")


@pytest.mark.parametrize(
    "lines",
    [
        [f"{name}: {value}".encode() for name, value in CURIOUS.items()],
        [b"Content-Type: text/plain", b"Content-Type: application/x-www-form-urlencoded"],
        [b"x-api-key: nz_another"],
        [b"X-Folded: a", b" b"],
        [b"Expect: 100-continue"],
        [b"Expect: something"],
        [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"],
        [b"Connection: close, x-request-id, content-type"],
        [b"Content-Encoding: identity"],
        [b"Accept-Encoding: gzip, br, zstd"],
        [b"X-Long: " + b"a" * 30_000],
    ],
    ids=lambda lines: lines[0][:24].decode(),
)
def test_what_a_caller_adds_stays_at_the_gateway(
    stack: Stack, ollama: Simulator, edge: Edge, lines: list[bytes]
) -> None:
    answer = send(edge.url, edge.bytes_of(b"/api/chat", *lines))
    check_served(stack, ollama, edge, answer)
    assert answer.request_id != "mine"
    assert "content-encoding" not in answer.headers


def test_headers_of_trust_are_not_believed_from_an_address_that_is_not_trusted(stack: Stack, edge: Edge) -> None:
    spoofed = [f"{name}: {value}".encode() for name, value in CURIOUS.items()]
    for target, method in ((b"/api/pull", b"POST"), (b"/api/tags", b"GET")):
        data = edge.bytes_of(target, *spoofed, method=method, body=b"", framing=None, key=False)
        with connected(stack.url, source="127.0.0.2") as connection:
            connection.sendall(data)
            answer = read_answer(connection)
        check_refused(edge, answer, 401, "invalid_api_key")
        assert row_of(stack, answer.request_id)["client_ip"] == "127.0.0.2"


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([b"Authorization: Bearer nz_another"], 401, "invalid_api_key"),
        ([b"Authorization: Basic YTpi"], 401, "invalid_api_key"),
        ([b"Content-Encoding: gzip"], 400, "invalid_request"),
        ([b"Content-Encoding: identity", b"Content-Encoding: zstd"], 400, "invalid_request"),
        ([b"Content-Length: 5"], 400, "invalid_request"),
        ([LENGTH], 400, "invalid_request"),
        ([b"Transfer-Encoding: chunked"], 400, "invalid_request"),
        ([b"X_Nz_Peer: 203.0.113.9"], 400, "invalid_request"),
        ([b"X-Space : a"], 400, "invalid_request"),
        ([b"X-Nul: a\x00b"], 400, "invalid_request"),
        ([b"no colon"], 400, "invalid_request"),
        ([b"Connection: Upgrade", b"Upgrade: websocket"], 403, "endpoint_blocked"),
        ([b"X-Long: " + b"a" * 40_000], 413, "request_too_large"),
        ([b"X-%d: a" % number for number in range(120)], 413, "request_too_large"),
    ],
    ids=lambda value: value[0][:24].decode() if isinstance(value, list) else None,
)
def test_headers_that_contradict_or_mislead_are_refused(edge: Edge, lines: list[bytes], status: int, code: str) -> None:
    check_refused(edge, send(edge.url, edge.bytes_of(b"/api/chat", *lines)), status, code)


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Transfer-Encoding: chunked", CHUNKED),
        (b"Transfer-Encoding:\tChunked", CHUNKED),
        (b"Transfer-Encoding: chunked", b"%x;ext=1\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        (
            b"Transfer-Encoding: chunked\r\nTrailer: authorization",
            CHUNKED[:-2] + b"Authorization: Bearer nz_another\r\nX-Nz-Peer: 203.0.113.9\r\n\r\n",
        ),
    ],
)
def test_a_chunked_body_is_that_body(stack: Stack, ollama: Simulator, edge: Edge, framing: bytes, body: bytes) -> None:
    check_served(stack, ollama, edge, send(edge.url, edge.bytes_of(framing=framing, body=body)))


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Transfer-Encoding: xchunked", CHUNKED),
        (b"Transfer-Encoding: identity", BODY),
        (b"Transfer-Encoding: chunked, identity", CHUNKED),
        (b"Transfer-Encoding: gzip, chunked", CHUNKED),
        (b"Transfer-Encoding: chunked\x0b", CHUNKED),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", CHUNKED),
        (b"Content-Length: +5", BODY),
        (b"Content-Length: -1", BODY),
        (b"Content-Length: 5, 5", BODY),
        (b"Content-Length: 99999999999999999999", BODY),
        (None, b""),
    ],
)
def test_a_body_whose_length_is_unclear_is_refused(edge: Edge, framing: bytes | None, body: bytes) -> None:
    check_refused(edge, send(edge.url, edge.bytes_of(framing=framing, body=body)), 400, "invalid_request")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/tags\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /api/chat HTTP/1.0\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\n\r\n",
        b"POST /api/chat HTTP/2.0\r\nHost: a\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\n: a\r\n\r\n",
    ],
)
def test_what_is_not_http_1_1_is_refused_with_words(edge: Edge, data: bytes) -> None:
    check_refused(edge, send(edge.url, data), 400, "invalid_request")


@pytest.mark.parametrize("size", ["0x5", "-1", "fffffffffffffffff", ""])
def test_a_body_whose_chunks_are_none_is_given_up(edge: Edge, size: str) -> None:
    body = f"{size}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    answer = send(edge.url, edge.bytes_of(framing=b"Transfer-Encoding: chunked", body=body))
    assert answer == NOTHING or (answer.status, answer.code) == (400, "invalid_request")
    assert edge.asked() == 0


def test_nothing_is_smuggled_behind_a_body_with_two_lengths(edge: Edge) -> None:
    smuggled = edge.bytes_of(b"/api/generate")
    with connected(edge.url) as connection:
        connection.sendall(edge.bytes_of(b"/api/chat", b"Transfer-Encoding: chunked", body=CHUNKED + smuggled))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"400"]
    assert edge.asked() == 0


def test_requests_on_one_connection_are_answered_in_order_and_each_is_checked(edge: Edge) -> None:
    last = edge.bytes_of(b"/nowhere", b"Connection: close", method=b"GET", body=b"", framing=None)
    data = edge.bytes_of() + edge.bytes_of(key=False) + edge.bytes_of(b"/api/pull") + edge.bytes_of() + last
    with connected(edge.url) as connection:
        connection.sendall(data)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"401", b"403", b"200", b"404"]
    assert edge.asked() == 2


PLAIN_H2 = {":method": "POST", ":scheme": "http", ":path": "/api/chat", ":authority": "gateway.example"}


def h2(edge: Edge, *more: tuple[str, str], **pseudo: str) -> Answer:
    headers = {**PLAIN_H2, **{f":{name}": value for name, value in pseudo.items()}}
    authorization = ("authorization", f"Bearer {edge.key.decode()}")
    return send_h2(edge.url, [*headers.items(), authorization, *more], BODY)


def test_http_2_is_served_like_http_1_1(stack: Stack, ollama: Simulator, edge: Edge) -> None:
    curious = [(name.lower(), value) for name, value in CURIOUS.items()]
    check_served(stack, ollama, edge, h2(edge, *curious, path="/api//chat?x=y"))


def test_http_2_trailers_stay_at_the_gateway(stack: Stack, ollama: Simulator, edge: Edge) -> None:
    authorization = ("authorization", f"Bearer {edge.key.decode()}")
    trailers = [("x-nz-peer", "203.0.113.9"), ("authorization", "Bearer nz_another")]
    check_served(stack, ollama, edge, send_h2(edge.url, [*PLAIN_H2.items(), authorization], BODY, trailers))


@pytest.mark.parametrize(
    ("pseudo", "status", "code"),
    [
        ({"path": "/api/pull"}, 403, "endpoint_blocked"),
        ({"path": "/api%2fchat"}, 400, "invalid_request"),
        ({"path": "/api/chat#x"}, 400, "invalid_request"),
        ({"method": "post"}, 405, "method_not_allowed"),
        ({"method": "GET"}, 405, "method_not_allowed"),
    ],
)
def test_http_2_is_refused_like_http_1_1(edge: Edge, pseudo: dict[str, str], status: int, code: str) -> None:
    check_refused(edge, h2(edge, **pseudo), status, code)


@pytest.mark.parametrize(
    ("pseudo", "more"),
    [
        ({"path": ""}, []),
        ({"path": "*"}, []),
        ({"path": "http://evil.example/api/chat"}, []),
        ({"path": "/api/chat x"}, []),
        ({"path": "/api/chat\r\nx: y"}, []),
        ({"method": "CONNECT", "protocol": "websocket"}, []),
        ({"unheard-of": "x"}, []),
        ({}, [(":path", "/api/pull")]),
        ({}, [("x-after", "1"), (":method", "GET")]),
        ({}, [("X-Upper", "a")]),
        ({}, [("connection", "close")]),
        ({}, [("transfer-encoding", "chunked")]),
        ({}, [("content-length", "5")]),
        ({}, [("x-folded", "a\r\nx-nz-peer: 203.0.113.9")]),
        ({}, [("x_nz_peer", "203.0.113.9")]),
        ({}, [("x-long", "a" * 40_000)]),
    ],
)
def test_http_2_against_its_rules_is_ended_without_an_answer(
    edge: Edge, pseudo: dict[str, str], more: list[tuple[str, str]]
) -> None:
    assert h2(edge, *more, **pseudo) == NOTHING
    assert edge.asked() == 0


def test_what_envoy_refuses_by_itself_leaves_no_row(stack: Stack, edge: Edge) -> None:
    refused = [
        send(edge.url, edge.bytes_of(b"/nowhere")),
        send(edge.url, edge.bytes_of(method=b"PUT")),
        send(edge.url, edge.bytes_of(b"/api%2fchat")),
        send(edge.url, edge.bytes_of(b"/api/chat", b"X_A: b")),
    ]
    assert [answer.status for answer in refused] == [404, 405, 400, 400]
    denied = send(edge.url, edge.bytes_of(key=False))

    async def recorded() -> set[str]:
        async with opened(stack) as books:
            await books.settled()
            return set(await books.rows([answer.request_id for answer in (*refused, denied)]))

    assert asyncio.run(recorded()) == {denied.request_id}


def test_headers_that_never_end_are_given_up(edge: Edge, slow_headers: socket.socket) -> None:
    check_refused(edge, read_answer(slow_headers), 408, "request_timeout")


def test_a_body_that_trickles_is_given_up_and_recorded(stack: Stack, edge: Edge, slow_body: Future[Answer]) -> None:
    answer = slow_body.result(timeout=180)
    check_refused(edge, answer, 408, "request_timeout")
    assert json.loads(answer.body)["request_id"] == answer.request_id, "in the words of the surface"
    row = row_of(stack, answer.request_id)
    assert (row["path"], row["outcome"], row["status"], row["code"]) == (
        "/v1/messages",
        "denied",
        408,
        "request_timeout",
    )
    assert row["backend"] is None
