"""Envoy's edge: each unusual request has one permitted answer; backends receive nothing or the plain request."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.e2e.ledger_view import audit_row, open_ledger_view
from tests.e2e.one_worker import REQUEST_ID_HEADER
from tests.e2e.sockets import NO_ANSWER, Answer, connect, read_answer, send, send_h2
from tests.e2e.stack import Simulator, Stack

CHAT = {"model": "llama3.2:latest", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
BODY = json.dumps(CHAT).encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
CONTENT_LENGTH = b"Content-Length: %d" % len(BODY)
# The only headers that a backend may receive. `authorization` is its own credential.
FORWARDED_HEADERS = {"host", "authorization", "content-type", "content-length", "accept", "x-request-id"}
SPOOFED_HEADERS = {
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
    """Builds requests with a valid key, and counts the requests that both backends have received since."""

    def __init__(self, stack: Stack, key: str, backends: tuple[Simulator, Simulator]) -> None:
        self.url = stack.url
        self.key = key.encode()
        self._backends = backends
        self._before = self._received()

    def request_bytes(
        self,
        target: bytes = b"/api/chat",
        *lines: bytes,
        method: bytes = b"POST",
        version: bytes = b"HTTP/1.1",
        body: bytes = BODY,
        framing: bytes | None = CONTENT_LENGTH,
        key: bool = True,
        host: bytes | None = b"Host: gateway.example",
    ) -> bytes:
        """The bytes of a request. `lines` are additional header lines."""
        authorization = b"Authorization: Bearer " + self.key if key else None
        head = [b"%s %s %s" % (method, target, version), host, authorization, framing, *lines]
        return b"\r\n".join([*(line for line in head if line is not None), b"", body])

    def backend_requests(self) -> int:
        """The number of requests that reached a backend since this object was created."""
        return self._received() - self._before

    def _received(self) -> int:
        return sum(len(backend.requests()) for backend in self._backends)


@pytest.fixture(scope="module")
def slow_headers(stack: Stack) -> Iterator[socket.socket]:
    """A connection with an unfinished request head, opened before the other tests and checked after them."""
    with closing(connect(stack.url)) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: gateway.example\r\nX-Slow: ")
        yield connection


@pytest.fixture
def edge(stack: Stack, key: str, ollama: Simulator, spare: Simulator, slow_headers: socket.socket) -> Edge:
    return Edge(stack, key, (ollama, spare))


def check_served(stack: Stack, ollama: Simulator, edge: Edge, answer: Answer) -> None:
    """Checks that one backend received one request, the same as for a plain one, and that there is one row."""
    assert answer.status == 200, answer
    assert json.loads(answer.body)["done"]
    assert answer.headers[REQUEST_ID_HEADER.lower()] == answer.request_id
    assert edge.backend_requests() == 1
    (record,) = ollama.requests(answer.request_id)
    assert (record["method"], record["path"], record["query"]) == ("POST", "/api/chat", "")
    assert set(record["headers"]) <= FORWARDED_HEADERS
    assert record["headers"]["content-type"] == "application/json"
    assert int(record["headers"]["content-length"]) == len(record["body"].encode())
    assert edge.key.decode() not in str(record)
    assert json.loads(record["body"])["messages"] == CHAT["messages"]
    row = audit_row(stack, answer.request_id)
    assert (row["path"], row["outcome"], row["status"]) == ("/api/chat", "complete", 200)


def check_refused(edge: Edge, answer: Answer, status: int, code: str) -> None:
    """Checks that the answer is a documented error with a body and a request id, and that no backend was contacted."""
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.request_id)
    assert answer.headers[REQUEST_ID_HEADER.lower()] == answer.request_id
    assert "server" not in answer.headers
    if answer.body:
        assert json.loads(answer.body)["error"]
    assert edge.backend_requests() == 0


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
        b"/api/chat/",
        b"/api/chat//",
        b"/api/chat/?x=y",
    ],
)
def test_an_equivalent_spelling_of_a_surface_reaches_that_surface(
    stack: Stack, ollama: Simulator, edge: Edge, target: bytes
) -> None:
    check_served(stack, ollama, edge, send(edge.url, edge.request_bytes(target)))


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (b"/api/../api/pull", 403, "endpoint_blocked"),
        (b"/api/%70ull", 403, "endpoint_blocked"),
        (b"/api/pull/", 403, "endpoint_blocked"),
        (b"/api/chatter/", 403, "endpoint_blocked"),
        (b"/api/chat;x=1", 403, "endpoint_blocked"),
        (b"/api/chat%20", 403, "endpoint_blocked"),
        (b"/api/chat%0a", 403, "endpoint_blocked"),
        (b"/api/chat%", 403, "endpoint_blocked"),
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
def test_a_path_that_is_not_a_surface_never_reaches_a_backend(
    edge: Edge, target: bytes, status: int, code: str
) -> None:
    check_refused(edge, send(edge.url, edge.request_bytes(target)), status, code)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"PATCH", b"DELETE"])
def test_a_surface_accepts_only_post(edge: Edge, method: bytes) -> None:
    answer = send(edge.url, edge.request_bytes(method=method, body=b"", framing=None), method.decode())
    check_refused(edge, answer, 405, "method_not_allowed")
    assert bool(answer.body) == (method != b"HEAD")


@pytest.mark.parametrize("method", [b"post", b"FOO", b"PRI", b"PO ST", b"CONNECT", b"G\x00T"])
def test_an_invalid_method_is_refused(edge: Edge, method: bytes) -> None:
    check_refused(edge, send(edge.url, edge.request_bytes(method=method)), 400, "invalid_request")


@pytest.mark.parametrize(
    "lines",
    [
        [f"{name}: {value}".encode() for name, value in SPOOFED_HEADERS.items()],
        [b"Content-Type: text/plain", b"Content-Type: application/x-www-form-urlencoded"],
        [b"x-api-key: sk-ant-another"],
        [b"x-api-key;"[:-1] + b":"],
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
def test_additional_headers_of_a_client_are_not_forwarded(
    stack: Stack, ollama: Simulator, edge: Edge, lines: list[bytes]
) -> None:
    answer = send(edge.url, edge.request_bytes(b"/api/chat", *lines))
    check_served(stack, ollama, edge, answer)
    assert answer.request_id != "mine"
    assert "content-encoding" not in answer.headers


def test_forwarding_headers_from_an_untrusted_address_are_ignored(stack: Stack, edge: Edge) -> None:
    spoofed = [f"{name}: {value}".encode() for name, value in SPOOFED_HEADERS.items()]
    for target, method in ((b"/api/pull", b"POST"), (b"/api/tags", b"GET")):
        data = edge.request_bytes(target, *spoofed, method=method, body=b"", framing=None, key=False)
        with connect(stack.url, source="127.0.0.2") as connection:
            connection.sendall(data)
            answer = read_answer(connection)
        check_refused(edge, answer, 401, "invalid_api_key")
        assert audit_row(stack, answer.request_id)["client_ip"] == "127.0.0.2"


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([b"Authorization: Bearer nz_another"], 401, "invalid_api_key"),
        ([b"x-api-key: nz_another"], 401, "invalid_api_key"),
        ([b"Content-Encoding: gzip"], 400, "invalid_request"),
        ([b"Content-Encoding: deflate"], 400, "invalid_request"),
        ([b"Content-Encoding: identity", b"Content-Encoding: zstd"], 400, "invalid_request"),
        ([b"Content-Length: 5"], 400, "invalid_request"),
        ([CONTENT_LENGTH], 400, "invalid_request"),
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
def test_contradictory_or_misleading_headers_are_refused(
    edge: Edge, lines: list[bytes], status: int, code: str
) -> None:
    check_refused(edge, send(edge.url, edge.request_bytes(b"/api/chat", *lines)), status, code)


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
def test_a_chunked_body_reaches_the_backend_as_a_plain_body(
    stack: Stack, ollama: Simulator, edge: Edge, framing: bytes, body: bytes
) -> None:
    check_served(stack, ollama, edge, send(edge.url, edge.request_bytes(framing=framing, body=body)))


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
def test_a_body_with_an_ambiguous_length_is_refused(edge: Edge, framing: bytes | None, body: bytes) -> None:
    check_refused(edge, send(edge.url, edge.request_bytes(framing=framing, body=body)), 400, "invalid_request")


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /api/chat HTTP/1.1\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\n: a\r\n\r\n",
    ],
)
def test_anything_but_http_1_is_refused_with_an_error_body(edge: Edge, data: bytes) -> None:
    check_refused(edge, send(edge.url, data), 400, "invalid_request")


@pytest.mark.parametrize("size", ["0x5", "-1", "fffffffffffffffff", ""])
def test_a_body_with_invalid_chunks_is_refused(edge: Edge, size: str) -> None:
    body = f"{size}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    answer = send(edge.url, edge.request_bytes(framing=b"Transfer-Encoding: chunked", body=body))
    assert answer == NO_ANSWER or (answer.status, answer.code) == (400, "invalid_request")
    assert edge.backend_requests() == 0


@pytest.mark.parametrize(
    "data",
    [b"GET /api/tags\r\n\r\n", b"GET /api/tags HTTP/0.9\r\n\r\n", b"POST /api/chat HTTP/2.0\r\nHost: a\r\n\r\n"],
)
def test_another_version_is_read_as_http_1_0_and_needs_a_key_as_well(edge: Edge, data: bytes) -> None:
    check_refused(edge, send(edge.url, data), 401, "invalid_api_key")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("host", [b"Host: gateway.example", None])
def test_http_1_0_is_served(stack: Stack, ollama: Simulator, edge: Edge, host: bytes | None, stream: bool) -> None:
    """nginx speaks it to upstreams by default. It knows no chunks, so the end of the connection ends the answer."""
    body = json.dumps({**CHAT, "stream": stream}).encode()
    length = b"Content-Length: %d" % len(body)
    answer = send(edge.url, edge.request_bytes(version=b"HTTP/1.0", host=host, body=body, framing=length))
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert json.loads(answer.body.splitlines()[-1])["done"]
    assert audit_row(stack, answer.request_id)["outcome"] == "complete"
    for path in (b"/healthz", b"/api/tags", b"/"):
        got = send(
            edge.url, edge.request_bytes(path, method=b"GET", version=b"HTTP/1.0", host=host, framing=None, body=b"")
        )
        assert got.status == 200


def test_the_root_is_that_of_ollama(edge: Edge) -> None:
    for method in (b"GET", b"HEAD"):
        answer = send(
            edge.url, edge.request_bytes(b"/", method=method, key=False, body=b"", framing=None), method.decode()
        )
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
        assert answer.body == (b"Ollama is running" if method == b"GET" else b"")
        assert answer.request_id


def test_no_request_is_smuggled_after_a_body_with_two_lengths(edge: Edge) -> None:
    smuggled = edge.request_bytes(b"/api/generate")
    with connect(edge.url) as connection:
        connection.sendall(edge.request_bytes(b"/api/chat", b"Transfer-Encoding: chunked", body=CHUNKED + smuggled))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"400"]
    assert edge.backend_requests() == 0


def test_pipelined_requests_are_answered_in_order_and_each_is_checked(edge: Edge) -> None:
    last = edge.request_bytes(b"/nowhere", b"Connection: close", method=b"GET", body=b"", framing=None)
    valid, blocked = edge.request_bytes(), edge.request_bytes(b"/api/pull")
    data = valid + edge.request_bytes(key=False) + blocked + valid + last
    with connect(edge.url) as connection:
        connection.sendall(data)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"401", b"403", b"200", b"404"]
    assert edge.backend_requests() == 2


PLAIN_H2 = {":method": "POST", ":scheme": "http", ":path": "/api/chat", ":authority": "gateway.example"}


def send_chat_h2(edge: Edge, *more: tuple[str, str], **pseudo: str) -> Answer:
    headers = {**PLAIN_H2, **{f":{name}": value for name, value in pseudo.items()}}
    authorization = ("authorization", f"Bearer {edge.key.decode()}")
    return send_h2(edge.url, [*headers.items(), authorization, *more], BODY)


def test_http_2_is_served_like_http_1_1(stack: Stack, ollama: Simulator, edge: Edge) -> None:
    spoofed = [(name.lower(), value) for name, value in SPOOFED_HEADERS.items()]
    check_served(stack, ollama, edge, send_chat_h2(edge, *spoofed, path="/api//chat?x=y"))


def test_http_2_trailers_are_not_forwarded(stack: Stack, ollama: Simulator, edge: Edge) -> None:
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
    check_refused(edge, send_chat_h2(edge, **pseudo), status, code)


@pytest.mark.parametrize(
    ("pseudo", "more"),
    [
        ({"path": ""}, []),
        ({"path": "*"}, []),
        ({"path": "http://evil.example/api/chat"}, []),
        ({"path": "/api/chat x"}, []),
        ({"path": "/api/chat\r\nx: y"}, []),
        ({"method": "CONNECT", "protocol": "websocket"}, []),
        ({"unknown": "x"}, []),
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
def test_http_2_that_breaks_the_protocol_is_closed_without_an_answer(
    edge: Edge, pseudo: dict[str, str], more: list[tuple[str, str]]
) -> None:
    assert send_chat_h2(edge, *more, **pseudo) == NO_ANSWER
    assert edge.backend_requests() == 0


def test_a_request_that_envoy_refuses_itself_has_no_row(stack: Stack, edge: Edge) -> None:
    refused = [
        send(edge.url, edge.request_bytes(b"/nowhere")),
        send(edge.url, edge.request_bytes(method=b"PUT")),
        send(edge.url, edge.request_bytes(b"/api%2fchat")),
        send(edge.url, edge.request_bytes(b"/api/chat", b"X_A: b")),
    ]
    assert [answer.status for answer in refused] == [404, 405, 400, 400]
    denied = send(edge.url, edge.request_bytes(key=False))

    async def recorded() -> set[str]:
        async with open_ledger_view(stack) as ledger_view:
            await ledger_view.wait_until_settled()
            return set(await ledger_view.rows([answer.request_id for answer in (*refused, denied)]))

    assert asyncio.run(recorded()) == {denied.request_id}


def test_headers_that_never_end_time_out(edge: Edge, slow_headers: socket.socket) -> None:
    check_refused(edge, read_answer(slow_headers), 408, "request_timeout")
