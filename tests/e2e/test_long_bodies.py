"""How long a request may be: the default, limits of tenants and keys, the ceiling, and callers without a key."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.ledger_view import audit_row
from tests.e2e.sockets import Answer, connect, read_answer
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"
MIB = 1 << 20


def chat(
    stack: Stack, key: str, size_bytes: int = 0, path: str = "/v1/chat/completions", **fields: Any
) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello", "padding": "x" * size_bytes}]
    body = {"model": MODEL, "messages": messages, "stream": False, **fields}
    return httpx.post(stack.url + path, json=body, headers={"x-api-key": key}, timeout=60)


@pytest.fixture(scope="module")
def wide(stack: Stack) -> str:
    key = stack.new_key("wide")
    stack.cli("set-limits", "--tenant", "wide", "--tpm", "1000000000")
    return key


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_photo_and_a_long_conversation_pass_by_default(stack: Stack, wide: str, path: str) -> None:
    assert chat(stack, wide, 3 * MIB, path).status_code == 200


def test_a_longer_body_is_refused_with_both_numbers_until_its_tenant_may_send_it(stack: Stack, wide: str) -> None:
    refused = chat(stack, wide, 9 * MIB)
    assert (refused.status_code, refused.headers["x-gateway-error"]) == (413, "request_too_large")
    assert "this key may send at most 8388608" in refused.json()["error"]["message"]
    assert str(len(refused.request.content)) in refused.json()["error"]["message"]
    assert audit_row(stack, refused.headers["x-request-id"])["request_bytes"] == len(refused.request.content)
    stack.cli("set-limits", "--tenant", "wide", "--max-body", str(32 * MIB))
    eventually(lambda: chat(stack, wide, 9 * MIB).status_code == 200)
    stack.cli("set-limits", "--prefix", wide[:12], "--max-body", "2048")
    eventually(lambda: chat(stack, wide, 3000).status_code == 413)
    short = chat(stack, wide, 3000)
    assert "may send at most 2048" in short.json()["error"]["message"]
    shown = httpx.post(f"{stack.url}/api/show", json={"model": MODEL, "x": "x" * 3000}, headers={"x-api-key": wide})
    assert (shown.status_code, "at most 2048" in shown.json()["error"]) == (413, True)
    stack.cli("set-limits", "--prefix", wide[:12], "--max-body", "inherit")
    eventually(lambda: chat(stack, wide, 9 * MIB).status_code == 200)


def test_nothing_is_longer_than_the_ceiling(stack: Stack, wide: str) -> None:
    def pieces() -> Any:
        for _ in range(40):
            yield b" " * MIB

    answer = httpx.post(f"{stack.url}/v1/messages", content=pieces(), headers={"x-api-key": wide}, timeout=60)
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (413, "request_too_large")
    assert "33554432 bytes" in answer.json()["error"]["message"]
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    row = audit_row(stack, answer.headers["x-request-id"])
    assert (row["status"], row["tenant"], row["key_prefix"]) == (413, "wide", wide[:12])


def test_an_output_cap_below_the_requested_one_is_named(stack: Stack, ollama: Simulator, wide: str) -> None:
    assert "x-gateway-output-cap" not in chat(stack, wide, max_tokens=4096).headers
    capped = chat(stack, wide, max_tokens=32_000)
    assert capped.headers["x-gateway-output-cap"] == "4096"
    assert "x-gateway-output-cap" not in chat(stack, wide).headers
    stack.cli("set-limits", "--tenant", "wide", "--max-output", "32768")
    eventually(lambda: "x-gateway-output-cap" not in chat(stack, wide, max_tokens=32_000).headers)
    answer = chat(stack, wide, max_tokens=32_000)
    (record,) = ollama.requests(answer.headers["x-request-id"])
    assert json.loads(record["body"])["max_tokens"] == 32_000


def test_the_preset_for_agents_permits_what_they_send(stack: Stack) -> None:
    stack.cli("create-tenant", "--name", "agency", "--allow-all-models", "--preset", "agents", "--max-output", "16000")
    key = stack.cli("create-key", "--tenant", "agency", "--name", "k")["key"]
    answer = chat(stack, key, 9 * MIB, max_tokens=32_000)
    # Three million tokens do not fit the preset's two million per minute.
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (429, "token_rate_exceeded")
    answer = chat(stack, key, 4 * MIB, max_tokens=32_000)
    assert (answer.status_code, answer.headers["x-gateway-output-cap"]) == (200, "16000")


def test_a_request_that_can_never_fit_is_refused_with_both_numbers(stack: Stack) -> None:
    """The report: `--tpm 20000` and a body of 78 KB were answered with `retry-after: 60` without end."""
    key = stack.new_key("never-fits")
    stack.cli("set-limits", "--tenant", "never-fits", "--tpm", "20000")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 15_600}], "max_tokens": 9}

    def refusal(code: str) -> httpx.Response | None:
        answer = httpx.post(f"{stack.url}/v1/messages", json=body, headers={"x-api-key": key}, timeout=30)
        return answer if answer.headers.get("x-gateway-error") == code else None

    refused = eventually(lambda: refusal("token_rate_exceeded"))
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["retry-after"]
    assert "about 26" in refused.json()["error"]["message"]
    assert "20000 tokens per minute" in refused.json()["error"]["message"]
    stack.cli("set-limits", "--tenant", "never-fits", "--tpm", "inherit")
    stack.cli("set-budget", "--tenant", "never-fits", "--daily", "500")
    refused = eventually(lambda: refusal("budget_exhausted"))
    assert refused.headers["x-should-retry"] == "false"
    assert "of this day has 500 tokens left, and this request needs about 26" in refused.json()["error"]["message"]


def _rss_bytes(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("framing", ["content-length", "chunked", "compressed"])
def test_callers_without_a_key_cannot_fill_the_memory(stack: Stack, key: str, framing: str) -> None:
    """200 connections that send 32 MiB each, without a key. All together they would be 6.4 GB."""
    (pid,) = stack.pids("envoy")
    before, peak, stop = _rss_bytes(pid), [0], threading.Event()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway.example\r\n"
    piece = b"x" * MIB
    if framing == "content-length":
        head += b"content-length: %d\r\n\r\n" % (32 * MIB)
    else:
        head += b"transfer-encoding: chunked\r\n"
        head += b"content-encoding: gzip\r\n\r\n" if framing == "compressed" else b"\r\n"
        compressor = zlib.compressobj(wbits=31)
        packed = compressor.compress(b" " * (32 * MIB)) + compressor.flush()
        piece = packed if framing == "compressed" else piece
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _rss_bytes(pid))

    def send(_: int) -> Answer | None:
        with closing(connect(stack.url)) as connection:
            connection.sendall(head)
            with suppress(ConnectionError, socket.timeout):
                for _ in range(32):
                    connection.sendall(piece)
            with suppress(ConnectionError):
                return read_answer(connection)
        return None

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(200) as pool:
        answers = pool.map(send, range(200))
        served = [chat(stack, key).status_code for _ in range(10)]
        codes = {answer.code for answer in answers if answer is not None and answer.status is not None}
    stop.set()
    watcher.join()
    assert served == [200] * 10
    assert codes <= {"invalid_api_key"}
    assert peak[0] - before < 256 * MIB
