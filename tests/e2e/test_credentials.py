"""Where a client may put its key, on the running stack: each header, beside others, on both edges of authz."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

import httpx
import pytest

from authz.keys.key_format import generate
from tests.e2e.conftest import AUTH_FAILURES_MAX
from tests.e2e.stack import Stack

CHAT = {"model": "llama3.2:latest", "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def basic(user_pass: str) -> str:
    return "Basic " + base64.b64encode(user_pass.encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer KEY"},
        {"x-api-key": "KEY"},
        {"Authorization": "BASIC"},
        {"Authorization": "Bearer sk-ant-x", "x-api-key": "KEY"},
        {"Authorization": "", "x-api-key": "KEY"},
        {"Authorization": "Bearer KEY", "x-api-key": "other"},
        {"Authorization": "Bearer KEY", "x-api-key": "KEY"},
    ],
    ids=str,
)
def test_the_header_that_has_a_key_counts(stack: Stack, key: str, headers: dict[str, str]) -> None:
    sent = {name: basic(f"user:{key}") if v == "BASIC" else v.replace("KEY", key) for name, v in headers.items()}
    assert httpx.post(f"{stack.url}/api/chat", json=CHAT, headers=sent, timeout=30).status_code == 200
    assert httpx.get(f"{stack.url}/v1/models", headers=sent).status_code == 200


def test_a_url_may_have_the_key(stack: Stack, key: str) -> None:
    url = f"http://user:{key}@{urlsplit(stack.url).netloc}"
    assert httpx.get(f"{url}/api/tags").status_code == 200
    assert httpx.post(f"{url}/api/chat/", json=CHAT, timeout=30).status_code == 200


def test_two_different_keys_are_refused(stack: Stack, key: str) -> None:
    other = generate().secret.get_secret_value()
    for bearer, api_key in ((other, key), (key, other)):
        headers = {"Authorization": f"Bearer {bearer}", "x-api-key": api_key}
        for path, method in (("/api/chat", "POST"), ("/api/tags", "GET")):
            answer = httpx.request(method, stack.url + path, headers=headers)
            assert (answer.status_code, answer.headers["x-gateway-error"]) == (401, "invalid_api_key")


def test_requests_without_a_credential_are_no_failures_of_their_address(stack: Stack) -> None:
    """The report: litellm sends 30 keyless `POST /api/show`, and then a fresh valid key was refused."""
    address = {"X-Forwarded-For": "203.0.113.77"}
    for _ in range(AUTH_FAILURES_MAX + 2):
        for path in ("/api/show", "/api/chat"):
            answer = httpx.post(stack.url + path, json={"model": "m"}, headers={**address, "Authorization": ""})
            assert (answer.status_code, answer.headers["x-gateway-error"]) == (401, "invalid_api_key")
    fresh = stack.new_key("fresh")
    answer = httpx.post(f"{stack.url}/api/chat", json=CHAT, headers={**address, "x-api-key": fresh}, timeout=30)
    assert answer.status_code == 200
