"""What a browser may do with the gateway: preflights and the headers of every answer, for the allowed origins only."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.e2e.conftest import ALLOWED_ORIGIN
from tests.e2e.stack import Stack

MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
PREFLIGHT = {
    "Origin": ALLOWED_ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}
EXPOSED = {"x-request-id", "retry-after", "x-gateway-error", "x-ratelimit-remaining-tokens", "x-should-retry"}


def exposed(answer: httpx.Response) -> set[str]:
    return set(answer.headers.get("access-control-expose-headers", "").split(", "))


@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages", "/v1/models", "/v1/models/a/b", "/api/pull", "/"])
def test_a_preflight_is_answered_without_a_key(stack: Stack, path: str) -> None:
    answer = httpx.options(stack.url + path, headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "x-api-key", "content-type", "x-stainless-os", "anthropic-version"} <= set(allowed)
    assert "x-gateway-error" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", ALLOWED_ORIGIN + ":8443", ALLOWED_ORIGIN + ".evil.example", "null"]
)
def test_another_origin_gets_no_header(stack: Stack, key: str, origin: str) -> None:
    preflight = httpx.options(f"{stack.url}/api/chat", headers={**PREFLIGHT, "Origin": origin})
    assert preflight.status_code == 405
    headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
    for answer in (preflight, httpx.post(f"{stack.url}/api/chat", json=CHAT, headers=headers, timeout=30)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.fixture(scope="module")
def limited(stack: Stack) -> str:
    key = stack.new_key("browser")
    stack.cli("set-limits", "--tenant", "browser", "--tpm", "1")
    return key


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/chat", 200),
        ("GET", "/api/tags", 200),
        ("GET", "/", 200),
        ("POST", "/api/pull", 403),
        ("GET", "/api/chat", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/api%2Fchat", 400),
        ("POST", "without a key", 401),
        ("POST", "too large", 413),
        ("POST", "no JSON", 400),
        ("POST", "limited", 429),
    ],
)
def test_every_answer_to_an_allowed_origin_can_be_read(
    stack: Stack, key: str, limited: str, method: str, path: str, status: int
) -> None:
    body = json.dumps(CHAT).encode() if method == "POST" else b""
    authorization = {"Authorization": f"Bearer {limited if path == 'limited' else key}"}
    if path == "without a key":
        authorization = {}
    if path == "too large":
        body = b" " * (40 << 20)
    if path == "no JSON":
        body = b"{"
    url = stack.url + (path if path.startswith("/") else "/v1/chat/completions")
    answer = httpx.request(method, url, content=body, headers={"Origin": ALLOWED_ORIGIN, **authorization}, timeout=30)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert exposed(answer) >= EXPOSED


def test_a_stream_can_be_read(stack: Stack, key: str) -> None:
    headers = {"Origin": ALLOWED_ORIGIN, "x-api-key": key}
    with httpx.stream("POST", f"{stack.url}/api/chat", json={**CHAT, "stream": True}, headers=headers) as answer:
        assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
        assert [json.loads(line) for line in answer.iter_lines()][-1]["done"]
