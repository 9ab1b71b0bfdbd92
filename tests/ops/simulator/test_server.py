import hashlib
from typing import Any

import pytest
from pydantic import SecretStr

from ops.simulator.__main__ import read_options
from ops.simulator.access import Auth, is_local_host
from ops.simulator.app import RunningSimulator, SimulatorOptions, run_simulator
from ops.simulator.control.recorder import RECORDED_BYTES_MAX, RECORDS_MAX, Recorder
from tests.ops.simulator import wire

CHAT: dict[str, Any] = {"model": "llama3.2", "messages": [{"role": "user", "content": "Say hello"}]}


async def names_of(server: RunningSimulator) -> set[str]:
    return {row["name"] for row in (await wire.call(server.url, "/api/tags")).json()["models"]}


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "allow"),
    [
        ("GET", "/nope", 404, b"404 page not found", None),
        ("POST", "/v1/messages/count_tokens", 404, b"404 page not found", None),
        ("GET", "/v1/models/user/name", 404, b"404 page not found", None),
        ("GET", "/api/chat", 405, b"405 method not allowed", "POST"),
        ("POST", "/api/delete", 405, b"405 method not allowed", "DELETE"),
        ("HEAD", "/v1/models", 405, b"", "GET"),
    ],
)
async def test_a_stray_request_gets_the_words_of_the_router(
    server: RunningSimulator, method: str, path: str, status: int, body: bytes, allow: str | None
) -> None:
    reply = await wire.call(server.url, path, method=method)
    assert (reply.status, reply.body, reply.headers.get("allow")) == (status, body, allow)
    assert reply.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api//tags", 307, "/api/tags"),
        ("POST", "/api/./chat", 307, "/api/chat"),
        ("POST", "/v1/x/../chat/completions", 307, "/v1/chat/completions"),
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("POST", "/api/chat/", 307, "/api/chat"),
    ],
)
async def test_an_unclean_path_is_redirected(
    server: RunningSimulator, method: str, path: str, status: int, location: str
) -> None:
    reply = await wire.call(server.url, path, method=method)
    assert (reply.status, reply.headers["location"]) == (status, location)


@pytest.mark.parametrize("path", ["/api/%63hat", "/api%2fchat", "http://elsewhere/api/chat", "/api/chat?x=1"])
async def test_the_decoded_path_is_routed(server: RunningSimulator, path: str) -> None:
    assert (await wire.call(server.url, path, CHAT)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_says_that_it_runs(server: RunningSimulator, method: str) -> None:
    reply = await wire.call(server.url, "/", method=method)
    assert (reply.status, reply.body) == (200, b"Ollama is running" if method == "GET" else b"")
    assert "server" not in reply.headers


async def test_loading_and_unloading_is_seen_in_ps(server: RunningSimulator) -> None:
    async def loaded() -> list[str]:
        return [row["name"] for row in (await wire.call(server.url, "/api/ps")).json()["models"]]

    assert await loaded() == []
    reply = await wire.call(server.url, "/api/generate", {"model": "LLAMA3.2"})
    assert (reply.json()["done_reason"], reply.json()["model"]) == ("load", "LLAMA3.2")
    assert await loaded() == ["llama3.2:latest"]
    await wire.call(server.url, "/api/chat", {**CHAT, "model": "qwen3:8b", "keep_alive": "-1m"})
    assert set(await loaded()) == {"llama3.2:latest", "qwen3:8b"}
    reply = await wire.call(server.url, "/api/chat", {"model": "llama3.2", "keep_alive": "0s"})
    assert reply.json()["done_reason"] == "unload"
    assert await loaded() == ["qwen3:8b"]
    await wire.call(server.url, "/api/chat", {**CHAT, "model": "qwen3:8b", "keep_alive": 0})
    assert await loaded() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", CHAT),
        ("/api/chat", {**CHAT, "stream": False}),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/messages", {**CHAT, "max_tokens": 900, "stream": True}),
    ],
)
async def test_a_client_that_leaves_stops_the_generation(
    server: RunningSimulator, path: str, body: dict[str, Any]
) -> None:
    server.simulator.behaviour.answer_tokens = 900
    server.simulator.behaviour.tokens_per_s = 50
    records = server.simulator.recorder.records
    await wire.leave(server.url, path, body, lambda: bool(records) and records[-1].output_tokens >= 3)
    assert await server.simulator.recorder.wait_idle(5)
    assert records[-1].finished == "cancelled"
    assert 3 <= records[-1].output_tokens < 900


async def test_a_client_that_leaves_a_fast_answer_stops_it_too(server: RunningSimulator) -> None:
    server.simulator.behaviour.answer_tokens = 40_000
    records = server.simulator.recorder.records
    body = {"model": "llama3.2", "prompt": "x"}
    await wire.leave(server.url, "/api/generate", body, lambda: bool(records) and records[-1].frames > 0)
    assert await server.simulator.recorder.wait_idle(5)
    assert records[-1].finished == "cancelled"
    assert records[-1].output_tokens < 40_000


async def test_a_client_that_leaves_while_the_model_loads_lets_the_next_one_load_it(server: RunningSimulator) -> None:
    server.simulator.behaviour.load_s = 60
    records = server.simulator.recorder.records
    await wire.leave(server.url, "/api/chat", CHAT, lambda: bool(records))
    assert await server.simulator.recorder.wait_idle(5)
    assert (records[-1].finished, records[-1].output_tokens, records[-1].status) == ("cancelled", 0, None)
    server.simulator.behaviour.load_s = 0
    assert (await wire.call(server.url, "/api/chat", CHAT)).status == 200


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b"{}", 400, "model is required"),
        (b'{"model":"a/b/c/d","messages":[]}', 404, "model 'a/b/c/d' not found"),
        (b'{"model":"m:cloud:local"}', 400, "invalid model name"),
        (b'{"model":"m:cloud"}', 401, "unauthorized"),
        (b'{"model":"llama3.2","options":{"num_ctx":"5"}}', 500, 'option "num_ctx" must be of type integer'),
        (b'{"model":"llama3.2","top_logprobs":21}', 400, "top_logprobs must be between 0 and 20"),
        (b'{"model":"llama3.2","think":"a lot"}', 400, "think must be"),
        (b'{"model":"llama3.2","keep_alive":"soon"}', 400, "time: invalid duration"),
    ],
)
async def test_a_chat_that_cannot_be_is_refused(server: RunningSimulator, body: bytes, status: int, error: str) -> None:
    reply = await wire.call(server.url, "/api/chat", body)
    assert reply.status == status
    assert reply.json()["error"].startswith(error)


async def test_the_first_value_of_a_body_counts_and_the_rest_is_ignored(server: RunningSimulator) -> None:
    reply = await wire.call(server.url, "/api/generate", b'{"model":"nope","MODEL":"llama3.2"} {"model":"nope"}')
    assert reply.json()["model"] == "llama3.2"


async def test_the_older_embedding_route_matches_the_case_of_a_name(server: RunningSimulator) -> None:
    body = {"model": "Nomic-embed-text", "prompt": "a", "input": "a"}
    assert (await wire.call(server.url, "/api/embed", body)).status == 200
    assert (await wire.call(server.url, "/api/embeddings", body)).status == 404


async def test_management_routes_really_change_the_models(server: RunningSimulator) -> None:
    before = await names_of(server)
    pulled = await wire.call(server.url, "/api/pull", {"name": "mistral"})
    assert pulled.body.splitlines()[-1] == b'{"status":"success"}'
    await wire.call(server.url, "/api/copy", {"source": "mistral", "destination": "alias"})
    await wire.call(server.url, "/api/create", {"model": "own", "from": "alias", "stream": False})
    assert await names_of(server) == before | {"mistral:latest", "alias:latest", "own:latest"}
    rows = {row["name"]: row for row in (await wire.call(server.url, "/api/tags")).json()["models"]}
    assert rows["own:latest"]["digest"] == rows["mistral:latest"]["digest"]
    for name in ("mistral", "alias", "own"):
        assert (await wire.call(server.url, "/api/delete", {"model": name}, method="DELETE")).status == 200
    assert await names_of(server) == before
    gone = await wire.call(server.url, "/api/delete", {"model": "own"}, method="DELETE")
    assert (gone.status, gone.json()) == (404, {"error": "model 'own' not found"})


async def test_blobs_are_stored_under_their_own_digest_only(server: RunningSimulator) -> None:
    path = f"/api/blobs/sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert (await wire.call(server.url, path, method="HEAD")).status == 404
    assert (await wire.call(server.url, path, b"others")).status == 400
    assert (await wire.call(server.url, path, b"weights")).status == 201
    assert (await wire.call(server.url, path, method="HEAD")).status == 200


async def test_what_would_leak_or_reach_out_answers_as_a_server_that_is_not_signed_in(server: RunningSimulator) -> None:
    for path in ("/api/me", "/api/experimental/web_search", "/api/experimental/web_fetch"):
        reply = await wire.call(server.url, path, {})
        assert reply.status == 401
        assert "signin_url" in reply.json()
    assert (await wire.call(server.url, "/api/signout", {})).status == 200
    assert (await wire.call(server.url, "/api/status")).json()["cloud"] == {"disabled": False, "source": "none"}


@pytest.mark.parametrize(
    ("auth", "header", "status"),
    [
        (Auth(SecretStr("t0ken")), "Authorization: Bearer t0ken\r\n", 200),
        (Auth(SecretStr("t0ken")), "Authorization: t0ken\r\n", 401),
        (Auth(SecretStr("t0ken")), "", 401),
        (Auth(SecretStr("t0ken"), "X-Token"), "X-Token: t0ken\r\n", 200),
        (Auth(SecretStr("t0ken"), other_tokens=(SecretStr("next"),)), "Authorization: Bearer next\r\n", 200),
        (Auth(SecretStr("t0ken"), "X-Token"), "X-Token: other\r\n", 401),
    ],
)
async def test_a_credential_is_asked_for_everywhere_but_on_the_version(auth: Auth, header: str, status: int) -> None:
    async with run_simulator(SimulatorOptions(port=0, auth=auth)) as server:
        assert (await wire.call(server.url, "/api/tags", headers=header)).status == status
        assert (await wire.call(server.url, "/nowhere", headers=header)).status == (404 if status == 200 else 401)
        assert (await wire.call(server.url, "/api/version")).status == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost:11434", True), ("127.0.0.1", True), ("[::1]:5", True), ("10.1.2.3", True), ("a.internal:80", True),
        ("example.com", False), ("8.8.8.8", False), ("[", False),
    ],
)  # fmt: skip
def test_only_local_host_names_are_served(host: str, local: bool) -> None:
    assert is_local_host(host) is local


async def test_a_foreign_origin_is_refused_with_nothing_said(server: RunningSimulator) -> None:
    foreign = await wire.call(server.url, "/api/tags", headers="Origin: https://evil.example\r\n")
    local = await wire.call(server.url, "/api/tags", headers="Origin: http://localhost:3000\r\n")
    assert (foreign.status, foreign.body, local.status) == (403, b"", 200)


async def test_a_record_holds_the_request_as_it_came(server: RunningSimulator) -> None:
    await wire.call(server.url, "/api/chat?a=1", b'{"model": "nope"}', headers="X-Thing: 1\r\nX-Thing: 2\r\n")
    [record] = (await wire.call(server.url, "/_sim/requests?idle_s=5")).json()
    assert record["path"] == "/api/chat"
    assert record["query"] == "a=1"
    assert record["headers"]["x-thing"] == "1, 2"
    assert record["body"] == '{"model": "nope"}'
    assert (record["model"], record["status"], record["finished"]) == ("nope", 404, "complete")
    assert record["started_at"] <= record["ended_at"]
    assert (await wire.call(server.url, "/_sim/requests", method="DELETE")).status == 204
    assert (await wire.call(server.url, "/_sim/requests")).json() == []


def test_the_recorder_forgets_the_oldest_beyond_its_bounds() -> None:
    recorder = Recorder(lambda: 0.0)
    for _ in range(RECORDS_MAX + 5):
        recorder.begin("GET", "/", "", {})
    assert (len(recorder.records), recorder.records[0].id) == (RECORDS_MAX, 6)
    big = recorder.begin("POST", "/", "", {})
    recorder.add_body(big, b"x" * (RECORDED_BYTES_MAX + 1))
    assert [record.id for record in recorder.records] == [big.id]


async def test_behaviour_is_put_and_what_is_not_named_returns_to_its_start() -> None:
    async with run_simulator(options_of("--listen", "127.0.0.1:0", "--seed", "3")) as server:
        first = await wire.call(server.url, "/_sim/behaviour", {"first_byte_s": 0.5}, method="PUT")
        assert (first.json()["first_byte_s"], first.json()["seed"]) == (0.5, 3)
        second = await wire.call(server.url, "/_sim/behaviour", {"faults": [{"kind": "reset"}]}, method="PUT")
        assert (second.json()["first_byte_s"], second.json()["faults"][0]["probability"]) == (0, 1)
        wrong = await wire.call(server.url, "/_sim/behaviour", {"fault": []}, method="PUT")
        assert wrong.status == 400
        assert (await wire.call(server.url, "/_sim/behaviour")).json() == second.json()


async def test_models_are_put_at_run_time(server: RunningSimulator) -> None:
    body = ["mistral", {"name": "hf.co/a/b:Q4_K_M", "digest": "d1", "capabilities": ["completion"]}]
    assert (await wire.call(server.url, "/_sim/models", body, method="PUT")).status == 200
    assert await names_of(server) == {"mistral:latest", "hf.co/a/b:Q4_K_M"}
    assert (await wire.call(server.url, "/api/chat", CHAT)).status == 404
    assert (await wire.call(server.url, "/_sim/models", ["a/b/c/d"], method="PUT")).status == 400
    assert (await wire.call(server.url, "/_sim/models", [], method="PUT")).status == 200
    assert (await wire.call(server.url, "/api/tags")).json() == {"models": []}
    assert (await wire.call(server.url, "/v1/models")).json() == {"object": "list", "data": None}


def options_of(*arguments: str) -> SimulatorOptions:
    return read_options(list(arguments))


def test_a_listen_address_without_a_port_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        options_of("--listen", "localhost")
    assert stopped.value.code == 2
    assert "HOST:PORT" in capsys.readouterr().err
