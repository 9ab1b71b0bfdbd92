"""What a client can and cannot do, and what client and backend can see of each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from authz.keys.key_format import generate
from tests.e2e.conftest import AUTH_FAILURES_MAX, BACKEND_TOKEN
from tests.e2e.ledger_view import audit_row
from tests.e2e.one_worker import REQUEST_ID_HEADER
from tests.e2e.stack import Simulator, Stack, connected, database_roles, listening
from tests.polling import eventually

MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def chat(
    stack: Stack, key: str | None, body: Mapping[str, Any] = CHAT, headers: Mapping[str, str] = MappingProxyType({})
) -> httpx.Response:
    authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{stack.url}/api/chat", json=body, headers={**authorization, **headers}, timeout=30)


def test_a_revoked_key_in_use_is_refused(stack: Stack) -> None:
    """Without the notification of the revocation, both workers would accept the key for ten minutes."""
    key = stack.new_key("revoked")
    assert {chat(stack, key).status_code for _ in range(6)} == {200}
    stack.cli("revoke-key", "--prefix", key[:12])
    eventually(lambda: {chat(stack, key).status_code for _ in range(6)} == {401})


def test_every_invalid_key_gets_the_same_answer(stack: Stack, key: str) -> None:
    unknown = generate().secret.get_secret_value()
    revoked = stack.new_key("revoked-early")
    stack.cli("revoke-key", "--prefix", revoked[:12])
    other = generate().secret.get_secret_value()
    invalid = {
        "missing": None,
        "malformed": "nz_short",
        "of another format": "sk-" + "a" * 41,
        "unknown": unknown,
        "revoked": revoked,
        "with another's prefix": key[:12] + other[12:],
    }
    answers = {}
    for name, presented in invalid.items():
        answer = chat(stack, presented)
        individual = ("x-request-id", REQUEST_ID_HEADER.lower(), "date")
        headers = {k: v for k, v in answer.headers.items() if k not in individual}
        answers[name] = (answer.status_code, answer.content, headers)
    assert {status for status, _, _ in answers.values()} == {401}
    assert len({(body, tuple(sorted(headers.items()))) for _, body, headers in answers.values()}) == 1


def test_only_an_address_with_too_many_failures_is_throttled(stack: Stack, key: str) -> None:
    """The tests connect from a trusted proxy address, so the client address is the forwarded one."""
    assert {chat(stack, key).status_code for _ in range(6)} == {200}
    unknown = generate().secret.get_secret_value()

    def chat_from(address: str, presented: str) -> httpx.Response:
        return chat(stack, presented, headers={"X-Forwarded-For": address})

    for _ in range(AUTH_FAILURES_MAX):
        assert chat_from("203.0.113.50", "nz_malformed").status_code == 401
    throttled = chat_from("203.0.113.50", unknown)
    assert (throttled.status_code, throttled.headers["x-gateway-error"]) == (429, "auth_throttled")
    assert 0 < int(throttled.headers["retry-after"]) <= 61
    assert chat_from("203.0.113.51", "nz_malformed").status_code == 401
    assert chat_from("203.0.113.50", key).status_code == 200
    assert audit_row(stack, throttled.headers["x-request-id"])["client_ip"] == "203.0.113.50"


def test_the_backend_never_sees_the_key_and_the_client_never_sees_the_token(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    answers = [
        chat(stack, key, headers={"Cookie": "a=b", "Origin": "https://example.com", "X-Custom": "1"}),
        httpx.post(f"{stack.url}/v1/chat/completions", json=CHAT, headers={"x-api-key": key}),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert BACKEND_TOKEN not in str(answer.headers) + answer.text
        assert "server" not in answer.headers
        (record,) = ollama.requests(answer.headers["x-request-id"])
        assert record["headers"]["authorization"] == f"Bearer {BACKEND_TOKEN}"
        assert key not in str(record)
        assert set(record["headers"]) <= {
            "host", "authorization", "content-type", "content-length", "accept", "x-request-id",
        }  # fmt: skip


def test_a_chunked_body_reaches_the_backend_with_a_content_length(stack: Stack, ollama: Simulator, key: str) -> None:
    def pieces() -> Any:
        yield b'{"model":"llama3.2","stream":false,'
        yield b'"messages":[{"role":"user","content":"Hi"}]}'

    answer = httpx.post(f"{stack.url}/api/chat?x=y", content=pieces(), headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    (record,) = ollama.requests(answer.headers["x-request-id"])
    assert int(record["headers"]["content-length"]) == len(record["body"].encode())
    assert "transfer-encoding" not in record["headers"]
    assert (record["path"], record["query"]) == ("/api/chat", "")


def test_the_request_id_of_a_client_is_never_used(stack: Stack, ollama: Simulator, key: str) -> None:
    answers = [chat(stack, key, headers={"X-Request-ID": "mine"}) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert "mine" not in ids
    assert [audit_row(stack, request_id)["status"] for request_id in ids] == [200, 200]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:0"),
        ("POST", "/api/me"),
        ("POST", "/v1/audio/transcriptions"),
        ("GET", "/api/unknown"),
        ("POST", "/api/pull/"),
        ("POST", "/API/chat"),
        ("POST", "/v1/images/generations"),
    ],
)
def test_a_path_that_is_not_allowed_never_reaches_a_backend(
    stack: Stack, ollama: Simulator, key: str, method: str, path: str
) -> None:
    before = len(ollama.requests())
    answer = httpx.request(method, stack.url + path, json=CHAT, headers={"Authorization": f"Bearer {key}"})
    if path.startswith(("/api/", "/v1/")):
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (403, "endpoint_blocked")
        assert httpx.request(method, stack.url + path, json=CHAT).status_code == 401
        assert audit_row(stack, answer.headers["x-request-id"])["outcome"] == "denied"
    else:
        assert answer.status_code == 404
    assert len(ollama.requests()) == before


def test_a_forbidden_model_and_an_unknown_one_give_the_same_bytes(stack: Stack) -> None:
    stack.cli("create-tenant", "--name", "few", "--models", MODEL)
    key = stack.cli("create-key", "--tenant", "few", "--name", "k")["key"]
    answers = [chat(stack, key, {**CHAT, "model": model}) for model in ("qwen3:8b", "no-such-model")]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].content == answers[1].content
    assert chat(stack, key).status_code == 200


def test_only_a_key_with_the_scope_debug_receives_the_name_of_the_backend(
    stack: Stack, ollama: Simulator, spare: Simulator, key: str
) -> None:
    debugger = stack.new_key("debugger", "--scopes", "chat,debug")
    for backend in (ollama, spare):
        backend.behave(headers={"X-Gateway-Backend": "sent-by-a-backend"})
    for stream in (False, True):
        assert chat(stack, debugger, {**CHAT, "stream": stream}).headers.get_list("x-gateway-backend") == ["sim"]
        assert "x-gateway-backend" not in chat(stack, key, {**CHAT, "stream": stream}).headers
    ollama.behave(headers={"X-Gateway-Backend": "sent-by-a-backend"}, faults=[{"kind": "reset"}])
    assert chat(stack, debugger).headers.get_list("x-gateway-backend") == ["spare"]
    refused = chat(stack, debugger, {**CHAT, "model": "no-such-model"})
    assert (refused.status_code, "x-gateway-backend" in refused.headers) == (403, False)


def test_runner_options_are_dropped_and_listed_in_a_header(stack: Stack, ollama: Simulator, key: str) -> None:
    body = {**CHAT, "keep_alive": 0, "options": {"num_ctx": 99, "temperature": 0.5, "num_predict": -1}}
    answer = chat(stack, key, body)
    assert answer.headers["x-gateway-dropped-options"] == "keep_alive, options.num_ctx"
    (record,) = ollama.requests(answer.headers["x-request-id"])
    sent = json.loads(record["body"])
    assert sent["options"] == {"temperature": 0.5, "num_predict": 4096}
    assert "keep_alive" not in sent


def test_a_body_that_is_too_large_is_refused_in_the_dialect_of_its_surface(stack: Stack, key: str) -> None:
    large = {**CHAT, "messages": [{"role": "user", "content": "x" * 9_000_000}]}
    native = chat(stack, key, large)
    assert (native.status_code, native.headers["x-gateway-error"]) == (413, "request_too_large")
    assert isinstance(native.json()["error"], str)
    v1 = httpx.post(f"{stack.url}/v1/chat/completions", json=large, headers={"x-api-key": key})
    assert v1.status_code == 413
    assert v1.json()["error"]["code"] == "request_too_large"


def test_every_listener_is_on_loopback(stack: Stack) -> None:
    addresses = listening(stack.pids(""))
    assert f"127.0.0.1:{stack.url.rpartition(':')[2]}" in addresses
    assert all(address.startswith("127.0.0.1:") for address in addresses), addresses


def test_authz_and_meter_do_not_log_in_as_the_owner_of_the_tables(stack: Stack, key: str) -> None:
    audit_row(stack, chat(stack, key).headers["x-request-id"])
    roles = database_roles(stack)
    for name, role in (("authz", "gateway_service"), ("meter", "gateway_service"), ("control", "gateway")):
        assert {roles[address] for address in connected(stack.pids(name)) if address in roles} == {role}
