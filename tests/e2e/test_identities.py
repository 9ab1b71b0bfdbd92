"""Ollama's command line signs in with the key pair of its installation, over TLS and directly at Envoy."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import AUTH_FAILURES_MAX
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually
from tests.ssh_identity import OllamaIdentity

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
SESSION = json.loads((Path(__file__).parents[1] / "corpus/ollama_command_line.json").read_text())
COMMANDS = {each["command"]: each["requests"] for each in SESSION["commands"]}


class CommandLine:
    """Ollama's command line with OLLAMA_AUTH=1: it sends its recorded requests, each signed anew."""

    def __init__(self, client: httpx.Client, url: str, identity: OllamaIdentity, address: str | None = None) -> None:
        self.identity = identity
        self._client = client
        self._url = url
        self._forwarded = {"X-Forwarded-For": address} if address else {}

    def send(
        self,
        method: str,
        path: str,
        body: str | None = None,
        accept: str = "application/json",
        at_s: float | None = None,
    ) -> httpx.Response:
        """One signed request, as the client sends it at `at_s`."""
        target, authorization = self.identity.signed(method, path, at_s)
        headers = {**SESSION["headers"], "Accept": accept, "Authorization": authorization, **self._forwarded}
        return self._client.request(method, self._url + target, content=body or None, headers=headers)

    def run(self, command: str) -> list[httpx.Response]:
        """The answers to the requests of a recorded command."""
        return [self.send(each["method"], each["path"], each["body"], each["accept"]) for each in COMMANDS[command]]


@pytest.fixture(scope="package")
def prefix(stack: Stack) -> str:
    """A key that may use every model but `forbidden`, which no backend hosts."""
    return stack.new_key("installations")[:12]


@pytest.fixture
def registered(stack: Stack, prefix: str) -> Iterator[OllamaIdentity]:
    identity = OllamaIdentity()
    stack.cli("add-identity", "--prefix", prefix, "--public-key", identity.public.line)
    yield identity
    if identity.public.fingerprint in _fingerprints(stack, prefix):
        stack.cli("remove-identity", "--prefix", prefix, "--public-key", identity.public.line)


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(stack.state_dir / "caddy-root.crt"))
    with httpx.Client(verify=trust, timeout=30) as client:
        yield client


@pytest.fixture
def command_line(stack: Stack, client: httpx.Client, registered: OllamaIdentity) -> CommandLine:
    """The command line of a registered installation, over TLS."""
    return CommandLine(client, stack.ready["tls_url"], registered)


def _fingerprints(stack: Stack, prefix: str) -> list[str]:
    return [each for key in stack.cli("list-keys") if key["prefix"] == prefix for each in key["identities"]]


def _row(stack: Stack, request_id: str) -> dict[str, Any]:
    """The audit row of a request, once it is stored."""
    rows = eventually(lambda: stack.cli("show-audit", "--request-id", request_id))
    row: dict[str, Any] = rows[0]
    return row


def _frames(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_list_ps_and_show(command_line: CommandLine) -> None:
    heartbeat, tags = command_line.run("ollama list")
    assert (heartbeat.status_code, tags.status_code) == (200, 200)
    assert "llama3.2:latest" in {model["name"] for model in tags.json()["models"]}
    assert [each.status_code for each in command_line.run("ollama ps")] == [200, 200]
    _, shown = command_line.run("ollama show llama3.2")
    assert "completion" in shown.json()["capabilities"]


def test_run_one_shot_interactive_and_with_an_embedding_model(
    stack: Stack, ollama: Simulator, command_line: CommandLine, prefix: str
) -> None:
    *_, answer = command_line.run("ollama run llama3.2 hello")
    frames = _frames(answer)
    assert (frames[-1]["done"], frames[-1]["done_reason"], len(frames) > 2) == (True, "stop", True)
    row = _row(stack, answer.headers["x-request-id"])
    assert (row["path"], row["key_prefix"], row["tenant"], row["outcome"]) == (
        "/api/generate", prefix, "installations", "complete",
    )  # fmt: skip
    assert row["user_agent"].startswith("ollama/")
    _, _, _, load, chat = command_line.run("ollama run llama3.2 (interactive)")
    assert [frame["done_reason"] for frame in _frames(load)] == ["load"]
    assert _frames(chat)[-1]["done_reason"] == "stop"
    *_, embedded = command_line.run("ollama run nomic-embed-text hello")
    assert len(embedded.json()["embeddings"]) == 1
    # Neither the time nor the signature reaches a backend.
    for answer in (chat, embedded):
        (record,) = ollama.requests(answer.headers["x-request-id"])
        assert "?" not in record["path"]
        assert command_line.identity.public.blob not in json.dumps(record)


def test_run_of_a_forbidden_model_is_a_sentence(command_line: CommandLine) -> None:
    _, answer = command_line.run("ollama run forbidden hello")
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (403, "model_not_allowed")
    assert answer.json()["error"] == "model not found, or your key may not use it"


def test_stop_needs_the_scope_that_its_sentence_names(
    stack: Stack, client: httpx.Client, command_line: CommandLine
) -> None:
    *_, refused = command_line.run("ollama stop llama3.2")
    assert (refused.status_code, refused.headers["x-gateway-error"]) == (403, "scope_denied")
    assert "runner" in refused.json()["error"]
    runner = stack.new_key("runners", "--scopes", "chat,runner")[:12]
    other = OllamaIdentity()
    stack.cli("add-identity", "--prefix", runner, "--public-key", other.public.line)
    *_, stopped = CommandLine(client, stack.ready["tls_url"], other).run("ollama stop llama3.2")
    assert [frame["done_reason"] for frame in _frames(stopped)] == ["unload"]


@pytest.mark.parametrize(
    "command",
    [
        "ollama pull llama3.2",
        "ollama push me/x",
        "ollama create mine",
        "ollama cp llama3.2 mine",
        "ollama rm llama3.2",
        "ollama signin",
        "ollama signout",
    ],
)
def test_a_management_command_is_refused_with_a_sentence(stack: Stack, command_line: CommandLine, command: str) -> None:
    *_, answer = command_line.run(command)
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (403, "endpoint_blocked")
    assert "manages" in answer.json()["error"]
    row = _row(stack, answer.headers["x-request-id"])
    assert (row["path"], row["code"]) == (COMMANDS[command][-1]["path"], "endpoint_blocked")


def test_a_wrong_signature_is_a_failed_login_and_the_identical_answer(
    stack: Stack, client: httpx.Client, registered: OllamaIdentity
) -> None:
    now = int(time.time())
    target, authorization = registered.signed("POST", "/api/chat", now)
    blob, signature = authorization.split(":")
    flipped = base64.b64encode(bytes([base64.b64decode(signature)[0] ^ 1]) + base64.b64decode(signature)[1:]).decode()
    unknown_target, unknown = OllamaIdentity().signed("POST", "/api/chat", now)
    early, late = (registered.signed("POST", "/api/chat", now + seconds) for seconds in (-90, 90))
    cases = [
        (unknown_target, unknown, "unknown"),
        (target, f"{blob}:{flipped}", "wrong_signature"),
        (f"/api/chat?ts={now + 1}", authorization, "wrong_signature"),
        (f"{target}&x=1", authorization, "wrong_signature"),
        (*early, "outside_window"),
        (*late, "outside_window"),
        ("/api/chat", authorization, "malformed"),
        (f"{target}&ts={now}", authorization, "malformed"),
        (target, f"{blob}:{signature[:-4]}", "malformed"),
    ]
    answers = set()
    for wrong_target, wrong, reason in cases:
        headers = {"Authorization": wrong, "X-Forwarded-For": "203.0.113.91"}
        answer = httpx.post(stack.url + wrong_target, json=CHAT, headers=headers, timeout=30)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (401, "invalid_api_key")
        answers.add(answer.text)
        row = _row(stack, answer.headers["x-request-id"])
        assert (row["reason"], row["tenant"], row["key_prefix"], row["path"]) == (reason, None, None, "/api/chat")
    wrong_key = httpx.post(f"{stack.url}/api/chat", json=CHAT, headers={"Authorization": "Bearer nz_wrong"})
    assert answers == {wrong_key.text}


def test_failures_are_counted_per_address_and_a_good_signature_goes_on(
    stack: Stack, client: httpx.Client, registered: OllamaIdentity
) -> None:
    address = "203.0.113.92"
    guessing = CommandLine(client, stack.url, OllamaIdentity(), address)
    codes = [guessing.send("GET", "/api/tags").headers["x-gateway-error"] for _ in range(AUTH_FAILURES_MAX + 2)]
    assert codes[0] == "invalid_api_key"
    assert codes[-1] == "auth_throttled"
    known = CommandLine(client, stack.url, registered)
    # Every worker knows the identity, from another address.
    for _ in range(20):
        assert known.send("GET", "/api/tags").status_code == 200
    same = CommandLine(client, stack.url, registered, address)
    assert same.send("GET", "/api/tags").status_code == 200
    assert same.send("GET", "/api/tags", at_s=time.time() - 90).headers["x-gateway-error"] == "auth_throttled"


def test_a_removed_identity_is_refused_at_every_worker(stack: Stack, command_line: CommandLine, prefix: str) -> None:
    for _ in range(20):
        assert command_line.send("GET", "/api/tags").status_code == 200
    stack.cli("remove-identity", "--prefix", prefix, "--public-key", command_line.identity.public.line)
    eventually(lambda: command_line.send("GET", "/api/tags").status_code == 401, timeout_s=5)
    time.sleep(0.5)
    assert {command_line.send("GET", "/api/tags").status_code for _ in range(20)} == {401}


def test_a_long_body_is_accepted_by_the_time_of_its_arrival(command_line: CommandLine) -> None:
    """Its head is checked first, and its body again with the same signature."""
    body = json.dumps({**CHAT, "messages": [{"role": "user", "content": "word " * 100_000}]})
    assert command_line.send("POST", "/api/chat", body).status_code == 200
