"""Backends that are added, changed and removed in the env file of a running stack."""

from __future__ import annotations

import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from ops.host import env_file
from tests.certificates import self_signed
from tests.e2e.conftest import BACKEND_TOKEN
from tests.e2e.ledger_view import audit_row
from tests.e2e.stack import Simulator, Stack, set_env, simulator
from tests.http_servers import servers
from tests.polling import eventually

PAUSE_S = 0.02
SHARED, OWN = "llama3.2:latest", "fresh:1b"
OLD_TOKEN, NEW_TOKEN = "old-token-of-the-new-backend", "new-token-of-the-new-backend"


@pytest.fixture(scope="module")
def new_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A backend that hosts its own model. It accepts two tokens, as during a rotation."""
    tokens = tmp_path_factory.mktemp("tokens") / "both"
    tokens.write_text(f"{OLD_TOKEN}\n{NEW_TOKEN}\n")
    with simulator("--auth-token-file", str(tokens), "--models", f"{SHARED},{OWN}") as running:
        yield running


@pytest.fixture(autouse=True)
def _restore_env_file(stack: Stack) -> Iterator[None]:
    path = Path(stack.ready["env_file"])
    before = path.read_text()
    yield
    env_file.write(path, before)
    eventually(lambda: list(active_backends(stack)) == ["sim", "spare"])


def log_records(stack: Stack, event: str) -> list[dict[str, Any]]:
    """The log records of control with this event name."""
    lines = (stack.state_dir / "logs" / "control.log").read_text().splitlines()
    documents = [json.loads(line) for line in lines if line.startswith("{")]
    return [document for document in documents if document["event"] == event]


def active_backends(stack: Stack) -> list[str]:
    """The names of the active backends, in order."""
    changes = log_records(stack, "backends_changed")
    return list(changes[-1]["order"]) if changes else ["sim", "spare"]


def admin(stack: Stack, path: str) -> str:
    listen = env_file.read(Path(stack.ready["env_file"]))["ENVOY_ADMIN_LISTEN"]
    with httpx.Client(transport=httpx.HTTPTransport(uds=listen.removeprefix("unix:"))) as client:
        return client.get(f"http://envoy{path}").text


def chat(stack: Stack, key: str, model: str, output: int) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": output}}
    return httpx.post(
        f"{stack.url}/api/chat",
        json=body,
        headers={"Authorization": f"Bearer {key}"},
        timeout=120,
    )


@contextmanager
def load(stack: Stack, key: str) -> Iterator[list[httpx.Response]]:
    """Two clients that send requests until the context ends, and leave time to control. Yields the list of answers."""
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.wait(PAUSE_S):
            answers.append(chat(stack, key, SHARED, 1))

    with ThreadPoolExecutor(2) as clients:
        running = [clients.submit(call) for _ in range(2)]
        try:
            yield answers
        finally:
            stop.set()
    for each in running:
        each.result()


def test_a_backend_is_added_changed_and_removed_without_a_failed_request_or_a_broken_stream(
    stack: Stack, new_backend: Simulator, key: str, tmp_path: Path
) -> None:
    path = stack.ready["env_file"]
    write = ("--write-env", path)

    def token_file(token: str) -> str:
        (tmp_path / "token").write_text(token)
        return str(tmp_path / "token")

    def credentials() -> set[str]:
        return {request["headers"].get("authorization", "") for request in new_backend.requests()}

    new_backend.behave(tokens_per_s=5, answer_tokens=100_000)
    with load(stack, key) as answers, ThreadPoolExecutor(1) as background:
        stack.cli("add-backend", "new", new_backend.url, "--token-file", token_file(OLD_TOKEN), "--slots", "8", *write)
        eventually(lambda: chat(stack, key, OWN, 1).status_code == 200)
        stream = background.submit(chat, stack, key, OWN, 2_000)
        eventually(lambda: any(request["output_tokens"] > 1 for request in new_backend.requests()))

        sim, spare, new = json.loads(env_file.read(Path(path))["OLLAMA_BACKENDS"])
        env_file.update(Path(path), {"OLLAMA_BACKENDS": json.dumps([new, sim, spare])})
        eventually(lambda: any(request["model"] == SHARED for request in new_backend.requests()))
        assert credentials() == {f"Bearer {OLD_TOKEN}"}

        stack.cli("add-backend", "new", new_backend.url, "--token-file", token_file(NEW_TOKEN), "--replace", *write)
        eventually(lambda: credentials() == {f"Bearer {OLD_TOKEN}", f"Bearer {NEW_TOKEN}"})

        stack.cli("remove-backend", "new", *write)
        eventually(lambda: "backend:new" not in admin(stack, "/config_dump?resource=dynamic_active_clusters"), 60)
        assert not stream.done()
        served = len(answers)
        eventually(lambda: len(answers) > served + 2)
        new_backend.behave()
        answer = stream.result(timeout=60)

    assert {each.status_code for each in answers} == {200}
    assert all('"done":true' in each.text for each in answers)
    assert (answer.status_code, '"done":true' in answer.text.splitlines()[-1]) == (200, True)
    row = audit_row(stack, answer.headers["x-request-id"])
    assert (row["backend"], row["outcome"], row["output_tokens"]) == ("new", "complete", 2_000)
    assert chat(stack, key, OWN, 1).status_code == 403

    shown = admin(stack, "/config_dump?include_eds") + admin(stack, "/certs") + admin(stack, "/clusters")
    shown += "".join(log.read_text() for log in (stack.state_dir / "logs").iterdir())
    for token in (OLD_TOKEN, NEW_TOKEN, BACKEND_TOKEN):
        assert token not in shown
        assert not any(token in file.read_text(errors="replace") for file in (stack.state_dir / "envoy").glob("*.yaml"))
    assert not any(NEW_TOKEN in file.read_text() for file in (stack.state_dir / "envoy").glob("*.token"))


def behind_path(upstream: str, prefix: str) -> web.Application:
    """A proxy that serves `upstream` below `prefix`, and fails chats of the model SHARED."""

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if json.loads(body or b"{}").get("model") == SHARED and request.path.endswith("/chat"):
            return web.Response(status=503)
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, upstream + request.match_info["path"], data=body, headers=headers) as got,
        ):
            answer = web.StreamResponse(status=got.status, headers={"Content-Type": got.headers["Content-Type"]})
            await answer.prepare(request)
            async for chunk in got.content.iter_any():
                await answer.write(chunk)
            return answer

    served = web.Application()
    served.router.add_route("*", prefix + "{path:/.*}", forward)
    return served


def test_a_backend_may_be_behind_a_path(stack: Stack, spare: Simulator, new_backend: Simulator, key: str) -> None:
    """Envoy prepends the path for that backend only: a request that moves on to the next one arrives without it."""
    with servers() as running:
        url = running.serve(behind_path(new_backend.url, "/ollama/v2"))
        backend = {"name": "behind", "base_url": f"{url}/ollama/v2/", "auth_token": NEW_TOKEN}
        next_one = {"name": "spare", "base_url": spare.url}
        set_env(stack.state_dir, OLLAMA_BACKENDS=json.dumps([backend, next_one]))
        eventually(lambda: active_backends(stack) == ["behind", "spare"])
        answer = eventually(lambda: found if (found := chat(stack, key, OWN, 3)).status_code == 200 else None)
        row = audit_row(stack, answer.headers["x-request-id"])
        assert (row["backend"], row["outcome"], row["output_tokens"]) == ("behind", "complete", 3)
        assert {request["path"] for request in new_backend.requests()} == {"/api/chat"}
        moved = chat(stack, key, SHARED, 3)
        assert moved.status_code == 200
        assert audit_row(stack, moved.headers["x-request-id"])["backend"] == "spare"
        assert stack.cli("probe-ollama")[0]["ok"]
    assert spare.requests()[-1]["path"] == "/api/chat"


def test_an_authority_renewed_in_place_is_applied_and_a_broken_one_is_not(
    stack: Stack, key: str, tmp_path: Path
) -> None:
    authority, shown, private = tmp_path / "ca.pem", tmp_path / "shown.pem", tmp_path / "private.pem"
    trust = ssl.create_default_context()

    def issue(name: str) -> Path:
        """Issues a certificate that the backend presents after its next start. Returns the path of its authority."""
        (tmp_path / name).mkdir()
        made = self_signed(tmp_path / name, "127.0.0.1")
        shutil.copy(made.certificate, shown)
        shutil.copy(made.key, private)
        trust.load_verify_locations(made.certificate)
        return made.certificate

    def answers() -> bool:
        return chat(stack, key, "private:1b", 1).status_code == 200

    shutil.copy(issue("first"), authority)
    files = ("--tls-cert", str(shown), "--tls-key", str(private), "--models", "private:1b")
    with simulator(*files, trust=trust) as backend:
        before = json.loads(env_file.read(Path(stack.ready["env_file"]))["OLLAMA_BACKENDS"])
        added = {"name": "private", "base_url": backend.url, "ca_file": str(authority)}
        set_env(stack.state_dir, OLLAMA_BACKENDS=json.dumps([*before, added]))
        eventually(answers)

        refused = len(log_records(stack, "backends_refused"))
        authority.write_text("no certificate")
        eventually(lambda: len(log_records(stack, "backends_refused")) > refused)
        assert answers()

        backend.stop()
        shutil.copy(issue("second"), authority)
        backend.start()
        eventually(lambda: log_records(stack, "backends_changed")[-1]["changed"] == ["private"])
        eventually(answers)


@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        ('[{"name": "sim", "auth_token": "s3cret"', "expected a JSON list of backends"),
        (
            '[{"name": "sim", "base_url": "http://a", "auth_token": "s3cret"}, {"name": "sim", "base_url": "http://b"}]',
            "expected every backend to have a different name",
        ),
        (
            '[{"name": "sim", "base_url": "https://a", "ca_file": "/nowhere", "auth_token": "s3cret"}]',
            "ca_file /nowhere",
        ),
    ],
    ids=["no JSON", "one name twice", "no authority"],
)
def test_an_invalid_change_is_logged_once_and_ignored_and_the_next_valid_one_is_applied(
    stack: Stack, key: str, invalid: str, reason: str
) -> None:
    valid = json.loads(env_file.read(Path(stack.ready["env_file"]))["OLLAMA_BACKENDS"])
    refused, changed = len(log_records(stack, "backends_refused")), len(log_records(stack, "backends_changed"))
    clusters = admin(stack, "/stats?filter=cds.version_text")
    set_env(stack.state_dir, OLLAMA_BACKENDS=invalid)
    eventually(lambda: len(log_records(stack, "backends_refused")) > refused)
    assert chat(stack, key, SHARED, 1).status_code == 200
    set_env(stack.state_dir, OLLAMA_BACKENDS=json.dumps(valid[::-1]))
    eventually(lambda: len(log_records(stack, "backends_changed")) > changed)
    assert active_backends(stack) == ["spare", "sim"]
    (line,) = log_records(stack, "backends_refused")[refused:]
    assert reason in line["reason"]
    assert "s3cret" not in json.dumps(line)
    assert admin(stack, "/stats?filter=cds.version_text") == clusters, "a new order changes no cluster"


def test_a_change_of_other_settings_is_logged_once_as_needing_a_restart(stack: Stack) -> None:
    before = len(log_records(stack, "restart_needed"))
    set_env(stack.state_dir, DEFAULT_RPM="9999", DEFAULT_TPM="9999999")
    eventually(lambda: len(log_records(stack, "restart_needed")) > before)
    (line,) = log_records(stack, "restart_needed")[before:]
    assert line["settings"] == ["DEFAULT_RPM", "DEFAULT_TPM"]
