"""What a request only carries, on the running stack: keys, numbers, escapes, server-side tools, encoded bodies."""

from __future__ import annotations

import base64
import gzip
import json

import httpx
import pytest

from gateway.wire.surfaces import SURFACES, Surface
from tests.e2e.ledger_view import audit_row
from tests.e2e.sockets import connect, read_answer
from tests.e2e.stack import Simulator, Stack

MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
BODY = json.dumps(CHAT, separators=(",", ":")).encode()
MAGIC = b"\x28\xb5\x2f\xfd"
BROTLI = base64.b64decode(
    "G1gA4CwO7IbPb6CGBpzQWDG6d0qRrb12kUEq0zosXX1ThO0tRWb6nHLgnma1ouggfNgYW0/EIA4w7ryQuNJ5tF5BGSF/dO1LAdkAAw=="
)


def zstd(body: bytes) -> bytes:
    """A frame with one raw block. Source: RFC 8878, 3.1.1."""
    return MAGIC + b"\xa0" + len(body).to_bytes(4, "little") + (len(body) << 3 | 1).to_bytes(3, "little") + body


def zstd_bomb(size_bytes: int) -> bytes:
    """A frame of blocks of 128 KiB that each repeat one byte: four bytes for 131072."""
    blocks = size_bytes >> 17
    block = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b" "
    last = (1 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b" "
    return MAGIC + b"\x00\x58" + block * blocks + last


def post(stack: Stack, key: str, path: str, body: bytes, **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(stack.url + path, content=body, headers=sent, timeout=30)


@pytest.mark.parametrize(
    ("path", "carried"),
    [
        (
            "/v1/chat/completions",
            '"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object",'
            '"properties":{"id":{"type":"string"},"ID":{"type":"string"}}}}}]',
        ),
        (
            "/api/chat",
            '"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"function":{"name":"f",'
            '"arguments":{"env":{"PATH":"a","Path":"b"}}}}]}]',
        ),
        ("/api/chat", '"messages":[{"role":"user","content":"truncated \\ud83d"}]'),
        ("/api/chat", '"format":{"type":"object","properties":{"n":{"maximum":1.50e+2},"N":{"maximum":1.5E2}}}'),
    ],
    ids=["schema", "arguments", "half a surrogate pair", "format"],
)
def test_the_backend_receives_what_was_sent(stack: Stack, ollama: Simulator, key: str, path: str, carried: str) -> None:
    messages = "" if "messages" in carried else ',"messages":[{"role":"user","content":"Hi"}]'
    answer = post(stack, key, path, f'{{"model":"{MODEL}","stream":false,{carried}{messages}}}'.encode())
    assert answer.status_code == 200, answer.text
    (record,) = ollama.requests(answer.headers["x-request-id"])
    assert carried in record["body"]
    assert "x-gateway-dropped-options" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions", "/api/chat"])
def test_a_tool_that_the_backend_would_run_is_dropped_and_named(
    stack: Stack, ollama: Simulator, key: str, path: str
) -> None:
    prompt = {"input": "Hi"} if path == "/v1/responses" else {"messages": CHAT["messages"], "max_tokens": 9}
    tools = [{"type": "web_search", "external_web_access": False}]
    body = {"model": MODEL, "stream": False, "keep_alive": None, "tools": tools, **prompt}
    answer = post(stack, key, path, json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-gateway-dropped-options"] == "tools.web_search"
    (record,) = ollama.requests(answer.headers["x-request-id"])
    assert json.loads(record["body"])["tools"] == []


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_a_compressed_body_is_decoded_on_every_surface(
    stack: Stack, ollama: Simulator, key: str, surface: Surface, encoding: str
) -> None:
    model = "nomic-embed-text:latest" if surface.cap_field is None else MODEL
    document = {"model": model, "messages": CHAT["messages"], "prompt": "a", "input": "a", "max_tokens": 9}
    body = json.dumps({**document, "stream": False}).encode()
    answer = post(
        stack, key, surface.path, (zstd if encoding == "zstd" else gzip.compress)(body), content_encoding=encoding
    )
    assert answer.status_code == 200, answer.text
    (record,) = ollama.requests(answer.headers["x-request-id"])
    assert json.loads(record["body"])["model"] == model
    assert int(record["headers"]["content-length"]) == len(record["body"].encode())
    assert "content-encoding" not in record["headers"]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("br", BROTLI), ("zstd", zstd(BODY)), ("gzip", gzip.compress(BODY))],
    ids=["br", "zstd", "gzip"],
)
def test_the_row_counts_the_decoded_bytes(stack: Stack, key: str, encoding: str, body: bytes) -> None:
    answer = post(stack, key, "/api/chat", body, content_encoding=encoding)
    assert answer.status_code == 200, answer.text
    assert audit_row(stack, answer.headers["x-request-id"])["request_bytes"] == len(BODY)


def test_the_catalog_reads_a_compressed_body(stack: Stack, key: str) -> None:
    shown = post(stack, key, "/api/show", zstd(b'{"model":"%s"}' % MODEL.encode()), content_encoding="zstd")
    assert shown.status_code == 200, shown.text


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("deflate", BODY),
        ("zstd", BODY),
        ("zstd", zstd(BODY)[:-9]),
        ("gzip", gzip.compress(BODY)[:30]),
        ("gzip", b""),
        ("br", BODY),
    ],
    ids=["unknown", "plain as zstd", "cut zstd", "cut gzip", "empty", "plain as brotli"],
)
def test_a_body_that_cannot_be_decoded_is_refused(stack: Stack, key: str, encoding: str, body: bytes) -> None:
    answer = post(stack, key, "/v1/responses", body, content_encoding=encoding)
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (400, "invalid_request")
    if encoding == "deflate":
        assert "send the body with gzip, br, zstd or without an encoding" in answer.json()["error"]["message"]


def test_a_body_that_decodes_to_gigabytes_is_refused(stack: Stack, key: str) -> None:
    for body, encoding in ((zstd_bomb(2 << 30), "zstd"), (gzip.compress(b" " * (64 << 20)), "gzip")):
        with connect(stack.url) as connection:
            head = (
                f"POST /api/chat HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\ncontent-encoding: {encoding}\r\n"
            )
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answer = read_answer(connection)
        assert answer.code in ("request_too_large", "invalid_request")
