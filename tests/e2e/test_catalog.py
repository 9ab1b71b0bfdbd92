"""The catalog through Envoy: which models a key can see, in every spelling of a model's name."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.wire.surfaces import SURFACES, Surface
from tests.e2e.ledger_view import audit_row
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"
SLASHED = "hf.co/bartowski/smollm2:q4_k_m"


@pytest.fixture(scope="module")
def narrow(stack: Stack) -> str:
    """A key that may use two existing models and one that does not exist."""
    stack.cli("create-tenant", "--name", "two", "--models", f"{MODEL},{SLASHED},missing")
    key: str = stack.cli("create-key", "--tenant", "two", "--name", "k")["key"]
    return key


def request(stack: Stack, key: str | None, raw_path: str, method: str = "GET", json: Any = None) -> httpx.Response:
    url = httpx.URL(stack.url).copy_with(raw_path=raw_path.encode())
    return httpx.request(method, url, json=json, headers={"x-api-key": key} if key else {}, timeout=30)


def without_id(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("x-request-id", "x-correlation-id", "date")
    }
    return answer.status_code, answer.content, headers


def test_the_openai_client_retrieves_a_model_whose_name_has_slashes(stack: Stack, narrow: str) -> None:
    import openai

    paths: list[str] = []
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=narrow, max_retries=0)
    for name in (SLASHED, "HF.co/Bartowski/SmolLM2:Q4_K_M", "registry.ollama.ai/library/llama3.2", MODEL):
        answer = client.models.with_raw_response.retrieve(name)
        paths.append(answer.http_request.url.raw_path.decode())
        assert answer.parse().id == name
    assert "%2F" in paths[0]
    assert client.models.retrieve(SLASHED).owned_by == "bartowski"


@pytest.mark.parametrize("spelling", [SLASHED, SLASHED.replace("/", "%2F"), SLASHED.replace("/", "%2f"), "x%2F..%2F.."])
def test_a_slash_in_a_models_name_may_be_escaped_or_not(stack: Stack, narrow: str, spelling: str) -> None:
    answer = request(stack, narrow, f"/v1/models/{spelling}")
    assert answer.status_code == (200 if "hf.co" in spelling else 400)
    assert request(stack, None, f"/v1/models/{spelling}").status_code == 401
    assert request(stack, narrow, f"/v1/models/{spelling}", "POST").status_code == (400 if "%" in spelling else 405)


def test_caddy_forwards_an_escaped_slash(stack: Stack, narrow: str) -> None:
    trust = ssl.create_default_context(cafile=str(stack.state_dir / "caddy-root.crt"))
    with httpx.Client(verify=trust) as client:
        url = httpx.URL(stack.ready["tls_url"])
        for path, status in ((f"/v1/models/{SLASHED.replace('/', '%2F')}", 200), ("/api%2Ftags", 400)):
            answer = client.get(url.copy_with(raw_path=path.encode()), headers={"x-api-key": narrow})
            assert answer.status_code == status, path


@pytest.mark.parametrize(
    "path",
    [
        "/api%2Fchat",
        "/api%2fchat",
        "/api%5Cchat",
        "/api%5cchat",
        "/%2Fapi/chat",
        "/api/chat%2F",
        "/api/%2e%2e%2fapi/chat",
        "/api/chat%2F..%2Fpull",
        "/v1%2Fmodels/x",
        "/v1/models%2F..%2F..%2Fapi%2Fchat",
        "/v1/models/..%2F..%2Fapi%2Fchat",
        "/v1/models/../../api%2Fpull",
        "/v1/models/%2e%2e/%2e%2e/api%2Fpull",
        "/v1/models/x%5C..%5C..%5Capi%5Cpull",
        "/api%252Fchat",
        "/v1/models/%252F..%252Fapi",
        "/healthz%2F",
        "//v1//models//..%2Fchat",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_escaped_slash_gives_access_to_no_other_path(
    stack: Stack, ollama: Simulator, key: str, path: str, method: str
) -> None:
    before = len(ollama.requests())
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    answer = request(stack, key, path, method, body)
    assert answer.status_code in (400, 403, 404, 405), answer.text
    if "%252" not in path:
        assert answer.status_code == 400
        assert answer.headers["x-gateway-error"] == "invalid_request"
    assert len(ollama.requests()) == before


def test_forbidden_and_missing_models_get_the_same_bytes_on_every_path(stack: Stack, narrow: str) -> None:
    forbidden, missing, unknown = "qwen3:8b", "missing", "no-such-model"
    for path in ("/v1/models/{}", "/api/show"):
        post = path == "/api/show"
        answers = [
            request(stack, narrow, path.format(name), "POST" if post else "GET", {"model": name} if post else None)
            for name in (forbidden, missing, unknown)
        ]
        assert len({str(without_id(answer)) for answer in answers}) == 1
        assert (answers[0].status_code, answers[0].headers["x-gateway-error"]) == (403, "model_not_allowed")
        row = audit_row(stack, answers[0].headers["x-request-id"])
        assert (row["tenant"], row["key_prefix"], row["code"]) == ("two", narrow[:12], "model_not_allowed")


def test_show_returns_what_clients_need_and_not_the_system_prompt(stack: Stack, narrow: str) -> None:
    import ollama

    answer = request(stack, narrow, "/api/show", "POST", {"model": "llama3.2", "verbose": True})
    shown = answer.json()
    assert shown["model_info"]["llama.context_length"] == 131_072
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown.keys() <= {
        "model_info",
        "details",
        "capabilities",
        "modified_at",
        "parameters",
        "projector_info",
        "license",
    }
    assert "quiet otter" not in answer.text
    client = ollama.Client(host=stack.url, headers={"Authorization": f"Bearer {narrow}"})
    assert client.show(MODEL).modelinfo == shown["model_info"]


def test_a_listing_contains_each_permitted_model_of_all_backends_once(stack: Stack, narrow: str) -> None:
    native, openai_listing = (request(stack, narrow, path).json() for path in ("/api/tags", "/v1/models"))
    assert sorted(row["name"] for row in native["models"]) == sorted([MODEL, SLASHED])
    assert sorted(row["id"] for row in openai_listing["data"]) == sorted([MODEL, SLASHED])


def test_ps_shows_only_the_models_that_the_tenant_may_use(
    stack: Stack, ollama: Simulator, narrow: str, key: str
) -> None:
    for model in (MODEL, "qwen3:8b"):
        body = {"model": model, "prompt": "Hello", "stream": False}
        assert request(stack, key, "/api/generate", "POST", body).status_code == 200

    def both_running() -> set[str] | None:
        """Both models are listed after the next refresh."""
        names = running_models(stack, key)
        return names if {MODEL, "qwen3:8b"} <= names else None

    running = eventually(both_running)
    assert running_models(stack, narrow) == running & {MODEL, SLASHED}


def running_models(stack: Stack, key: str) -> set[str]:
    return {row["model"] for row in request(stack, key, "/api/ps").json()["models"]}


def test_the_version_is_the_lowest_among_the_backends_that_answer(stack: Stack, spare: Simulator, key: str) -> None:
    def version() -> str:
        document = request(stack, key, "/api/version").json()
        assert document["gateway"]
        return str(document["version"])

    assert version() == "0.33.0"
    spare.behave(version="0.20.1")
    eventually(lambda: version() == "0.20.1")
    spare.behave(version="0.20.1", faults=[{"kind": "reset", "paths": ["/api/version"]}])
    eventually(lambda: version() == "0.33.0")


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/v1/models"])
def test_head_answers_without_a_body(stack: Stack, key: str, path: str) -> None:
    answer, full = request(stack, key, path, "HEAD"), request(stack, key, path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == full.headers["content-type"]
    assert request(stack, None, path, "HEAD").status_code == 401


def test_a_pulled_model_is_usable_after_the_next_refresh(stack: Stack, spare: Simulator, key: str, narrow: str) -> None:
    body = {"model": "hf.co/Org/Fresh", "prompt": "Hello", "stream": False}
    assert request(stack, key, "/api/generate", "POST", body).status_code == 403
    httpx.post(f"{spare.url}/api/pull", json={"model": "hf.co/org/fresh", "stream": False}).raise_for_status()
    answer = eventually(lambda: ok if (ok := request(stack, key, "/api/generate", "POST", body)).is_success else None)
    assert audit_row(stack, answer.headers["x-request-id"])["backend"] == "spare"
    assert request(stack, narrow, "/api/generate", "POST", body).status_code == 403
    httpx.request("DELETE", f"{spare.url}/api/delete", json={"model": "hf.co/org/fresh"}).raise_for_status()
    eventually(lambda: request(stack, key, "/api/generate", "POST", body).status_code == 403)


FOREIGN = "PetrosStav/gemma3-tools:4b"


@pytest.fixture(scope="module")
def mixed(stack: Stack, spare: Simulator) -> Iterator[str]:
    """A key that may use everything, while the spare backend has a model whose name has capital letters."""
    key = stack.new_key("capitals")
    others = spare.models()
    spare.install(*others, {"name": FOREIGN, "capabilities": ["completion", "tools", "embedding"]})
    eventually(lambda: FOREIGN in request(stack, key, "/v1/models").text)
    yield key
    spare.install(*others)
    eventually(lambda: FOREIGN not in request(stack, key, "/v1/models").text)


def test_lists_have_the_spelling_of_the_backend(stack: Stack, mixed: str) -> None:
    assert FOREIGN in {model["name"] for model in request(stack, mixed, "/api/tags").json()["models"]}
    assert FOREIGN in {model["model"] for model in request(stack, mixed, "/api/tags").json()["models"]}
    assert FOREIGN in {model["id"] for model in request(stack, mixed, "/v1/models").json()["data"]}
    assert FOREIGN in {model["name"] for model in stack.cli("list-models")["models"]}
    for spelling in (FOREIGN, FOREIGN.lower(), FOREIGN.upper()):
        assert request(stack, mixed, f"/v1/models/{spelling}").json()["id"] == spelling
        assert request(stack, mixed, "/api/show", "POST", {"model": spelling}).status_code == 200


@pytest.mark.parametrize(
    "spelling", ["llama3.2", "Llama3.2", "LLAMA3.2:Latest", "library/llama3.2", FOREIGN, FOREIGN.lower()]
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_an_answer_has_the_spelling_of_the_caller(
    stack: Stack, mixed: str, ollama: Simulator, spare: Simulator, surface: Surface, stream: bool, spelling: str
) -> None:
    prompt = {"messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello", "input": "Hello"}
    body = {"model": spelling, "stream": stream, "max_tokens": 9, **prompt}
    if surface.cap_field is None and "gemma" not in spelling.lower():
        body["model"] = spelling = re.sub("(?i)llama3.2", "Nomic-embed-Text", spelling)
    answer = httpx.post(stack.url + surface.path, json=body, headers={"x-api-key": mixed}, timeout=30)
    assert answer.status_code == 200, answer.text
    names = set(re.findall(r'"model":"([^"]*)"', answer.text))
    assert names == (set() if surface.name == "embeddings" else {spelling})
    (record,) = [*ollama.requests(answer.headers["x-request-id"]), *spare.requests(answer.headers["x-request-id"])]
    sent = json.loads(record["body"])["model"]
    assert sent == (FOREIGN if "gemma" in spelling.lower() else sent.lower())
    assert sent.endswith((":latest", ":4b"))
