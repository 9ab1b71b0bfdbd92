"""After varied requests, no key, token, prompt or answer is anywhere but where it belongs.

The scan reads every table, every key of Redis, every file of the state directory with all logs, Envoy's admin pages,
the metrics, the arguments and environments of all processes, and the traces, while one more request runs.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from authz.keys.key_format import PREFIX_LENGTH, generate
from gateway.settings import Settings, load
from ops.cli.top.scrape import listeners
from ops.host.probes import split_listen
from tests.e2e.conftest import BACKEND_TOKEN, stack_over
from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.one_worker import REQUEST_ID_HEADER
from tests.e2e.stack import Simulator, Stack, executed_up
from tests.otlp_collector import Collector, collector
from tests.polling import eventually

MODEL = "llama3.2:latest"
COLLECTOR_KEY = "key-of-the-collector-in-the-scan"
PROMPT, LOGGED_PROMPT = "canary-Prompt-7f3a9c", "canary-Logged-51d08e"
# The simulator answers in a fixed vocabulary, so an answer is recognised by its first and last characters.
ANSWER_CHARACTERS = 40
ADMIN_PAGES = ("config_dump?include_eds", "clusters", "stats", "stats/prometheus", "listeners", "certs", "server_info")
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "user", "content": PROMPT}]},
    "/api/generate": {"prompt": f"{PROMPT} in 60 words", "system": PROMPT},
    "/v1/chat/completions": {"messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": PROMPT}]},
    "/v1/completions": {"prompt": PROMPT},
    "/v1/responses": {"input": PROMPT, "instructions": PROMPT},
    "/v1/messages": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200},
}


@dataclass
class Traffic:
    """What was sent: the credentials of callers, parts of the answers, and the ids of the requests."""

    credentials: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    request_ids: set[str] = field(default_factory=set)


@dataclass
class Found:
    """The content of one place, such as a table or a file. `mode` is that of a file."""

    place: str
    content: bytes
    mode: int | None = None


def send(stack: Stack, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{stack.url}{path}?q={PROMPT}"
    return httpx.post(url, content=content, headers={"cookie": f"c={PROMPT}", **headers}, timeout=30)


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON document, without names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    ollama: Simulator, spare: Simulator, collected: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack that exports its traces. /proc shows the arguments and the environment of its `up`."""
    otel = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collected.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-collector-key={COLLECTOR_KEY}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    with stack_over(ollama, spare, tmp_path_factory.mktemp("scanned") / "state", executed_up, **otel) as running:
        yield running


@pytest.fixture(scope="module")
def traffic(stack: Stack, ollama: Simulator, spare: Simulator) -> Traffic:
    """Requests on every surface, whole and streamed, admitted and denied, with every kind of credential."""
    key, logged = stack.new_key("scanned"), stack.new_key("scanned-and-logged", "--log-prompts")
    wrong = generate().secret.get_secret_value()
    another = key[:PREFIX_LENGTH] + wrong[PREFIX_LENGTH:]
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()
    signature = base64.b64encode(b"s" * 64).decode()
    seen = Traffic({key, logged, wrong, another, basic, signature})
    credentials = ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"authorization": f"Basic {basic}"})
    for path, body in BODIES.items():
        for stream, headers in itertools.product((False, True), credentials):
            answer = send(stack, path, {"model": MODEL, "stream": stream, **body}, **headers)
            assert answer.status_code == 200, answer.text
            seen.request_ids.add(answer.headers[REQUEST_ID_HEADER])
            if not stream:
                text = max(strings(answer.json()), key=len)
                assert len(text) >= ANSWER_CHARACTERS
                seen.answers |= {text[:ANSWER_CHARACTERS], text[-ANSWER_CHARACTERS:]}
    embedded = {"model": "nomic-embed-text:latest", "input": [PROMPT]}
    assert send(stack, "/api/embed", embedded, authorization=f"Bearer {key}").status_code == 200
    bearer = {"authorization": f"Bearer {key}"}
    chat = {"model": MODEL, **BODIES["/api/chat"]}
    denied = [
        send(stack, "/api/chat", {**chat, "model": "none"}, **bearer),
        send(stack, "/api/chat", b'{"model": "' + PROMPT.encode() + b'", "model": 1}', **bearer),
        send(stack, "/api/chat", PROMPT.encode() * 500_000, **bearer),
        send(stack, "/api/pull", {"model": PROMPT}, **bearer),
        send(stack, "/api/chat", chat, authorization=f"Bearer {wrong}"),
        send(stack, "/api/chat", chat, authorization=f"Bearer {another}"),
        send(stack, "/api/chat", chat, authorization=f"{blob}:{signature}"),
        send(stack, "/api/chat", chat, authorization=f"Bearer {key}", **{"x-api-key": logged}),
    ]
    assert all(400 <= answer.status_code < 500 for answer in denied)
    seen.request_ids |= {answer.headers[REQUEST_ID_HEADER] for answer in denied}
    # Both backends fail and quote the prompt.
    fault = {"kind": "status", "status": 500, "message": f"failed at {PROMPT}", "times": 1}
    for backend in (ollama, spare):
        backend.behave(faults=[fault])
    assert send(stack, "/api/chat", chat, **bearer).status_code >= 500
    for backend in (ollama, spare):
        backend.behave()
    with httpx.stream("POST", f"{stack.url}/api/chat", json=chat, headers=bearer) as answer:
        next(answer.iter_bytes())
    answer = send(stack, "/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": LOGGED_PROMPT}]},
                  authorization=f"Bearer {logged}")  # fmt: skip
    assert answer.status_code == 200
    seen.request_ids.add(answer.headers[REQUEST_ID_HEADER])
    return seen


@contextmanager
def running_request(stack: Stack, ollama: Simulator, key: str) -> Iterator[None]:
    """One stream that runs until the context ends, so that its hold is in the stores."""
    ollama.behave(tokens_per_s=5)
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"{PROMPT} in 500 words"}]}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", f"{stack.url}/api/chat", json=body, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        yield


async def stored(stack: Stack, settings: Settings) -> list[Found]:
    """The rows of every table, and every key and value of Redis, as text."""
    found = []
    async with open_ledger_view(stack) as view:
        connection = await asyncpg.connect(settings.database_url.get_secret_value())
        tables = await connection.fetch(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) AS name FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        for (name,) in tables:
            rows = await connection.fetch(f"SELECT each::text FROM {name} AS each")  # noqa: S608
            found.append(Found(f"table {name}", "\n".join(row[0] for row in rows).encode()))
        await connection.close()
        readers: dict[str, Any] = {
            "string": view.redis.get,
            "hash": view.redis.hgetall,
            "set": view.redis.smembers,
            "list": lambda key: view.redis.lrange(key, 0, -1),
            "zset": lambda key: view.redis.zrange(key, 0, -1, withscores=True),
            "stream": view.redis.xrange,
        }
        for key in await view.redis.keys("*"):
            found_kind = await view.redis.type(key)
            kind = found_kind.decode() if isinstance(found_kind, bytes) else found_kind
            # A key may expire meanwhile.
            value = None if kind == "none" else await readers[kind](key)
            found.append(Found(f"redis {key!r}", f"{key!r} {value!r}".encode()))
    return found


def files(root: Path) -> Iterator[Found]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            # Files of PostgreSQL come and go.
            try:
                yield Found(f"file {path.relative_to(root)}", path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
            except FileNotFoundError:
                continue


def pages(stack: Stack, settings: Settings) -> Iterator[Found]:
    """Envoy's admin pages, and the metrics of all processes."""
    origin, socket = split_listen(settings.envoy_admin_listen)
    addresses = listeners(settings, stack.state_dir)
    assert len(addresses) == 5
    wanted = [(socket, f"{origin}/{page}") for page in ADMIN_PAGES]
    wanted += [(address, "http://localhost/metrics") for address in addresses]
    wanted += [(address, "http://localhost/metrics/envoy") for address in addresses if "control" in address]
    for address, url in wanted:
        assert address is not None
        transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"))
        with httpx.Client(transport=transport, timeout=30) as client:
            answer = client.get(url)
        assert answer.status_code == 200, url
        if url.endswith("/metrics"):
            assert list(text_string_to_metric_families(answer.text))
        yield Found(f"page {address} {urlsplit(url).path}", answer.content)


def processes(stack: Stack) -> Iterator[Found]:
    """The arguments and the environment of every process of the stack."""
    pids = [stack.process.pid]
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    assert set(stack.pids("")) <= set(pids)
    for pid in pids:
        command = Path(f"/proc/{pid}/comm").read_text().strip()
        for name in ("cmdline", "environ"):
            yield Found(f"{name} of {command}", Path(f"/proc/{pid}/{name}").read_bytes())


def exported(collected: Collector, traffic: Traffic) -> Iterator[Found]:
    """The exports of Envoy, authz and meter, as soon as each request has a span."""

    def is_complete() -> bool:
        spans = [each.attributes for each in collected.spans]
        known = {each.get("neuronetz.request_id", each.get("guid:x-request-id")) for each in spans}
        processes = {each.resource["neuronetz.process"] for each in collected.spans}
        return traffic.request_ids <= known and len(processes) == 3 and bool(collected.metrics)

    eventually(is_complete, 30)
    yield from (Found("traces", body) for body in list(collected.bodies))


def forms(secret: str) -> set[bytes]:
    """The secret as it is, in a URL and in JSON."""
    return {each.encode() for each in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}


def places(found: list[Found], secrets: set[str]) -> set[str]:
    """The places that contain one of these texts."""
    wanted = {form for secret in secrets for form in forms(secret)}
    return {each.place for each in found if any(form in each.content for form in wanted)}


def password(url: str) -> str:
    return urlsplit(url).password or ""


@pytest.fixture(scope="module")
def found(stack: Stack, ollama: Simulator, traffic: Traffic, collected: Collector) -> list[Found]:
    settings = load(Path(stack.ready["env_file"]))
    runs = stack.new_key("scanned-while-running")
    traffic.credentials.add(runs)
    with running_request(stack, ollama, runs):
        everything = [
            *asyncio.run(stored(stack, settings)),
            *files(stack.state_dir),
            *pages(stack, settings),
            *processes(stack),
            *exported(collected, traffic),
            Found("log of up", stack.state_dir.with_suffix(".log").read_bytes()),
        ]
    ollama.behave()
    return everything


def test_the_scan_reads_every_place(found: list[Found]) -> None:
    names = {each.place for each in found}
    wanted = {"table gateway.audit_log", "table gateway.prompt_log", "file .env", "file logs/envoy.log", "traces"}
    assert wanted <= names
    kinds = ("redis ", "page ", "cmdline of ", "environ of ", "file logs/authz", "file logs/meter", "file envoy/")
    assert all(any(name.startswith(kind) for name in names) for kind in kinds)


def test_no_credential_of_a_caller_is_anywhere(found: list[Found], traffic: Traffic) -> None:
    assert places(found, traffic.credentials) == set()


def test_no_prompt_and_no_answer_is_outside_the_prompt_log(found: list[Found], traffic: Traffic) -> None:
    assert places(found, {PROMPT}) == set()
    assert places(found, traffic.answers) == set()
    logged = places(found, {LOGGED_PROMPT})
    assert "table gateway.prompt_log" in logged
    assert {place for place in logged if not place.startswith("file postgres/")} == {"table gateway.prompt_log"}


def test_secrets_of_the_operator_are_only_in_files_of_their_owner(stack: Stack, found: list[Found]) -> None:
    settings = load(Path(stack.ready["env_file"]))
    urls = (settings.database_url, settings.redis_url)
    secrets = {BACKEND_TOKEN, COLLECTOR_KEY, *(password(url.get_secret_value()) for url in urls)} - {""}
    assert len(secrets) >= 3
    for secret in secrets:
        holders = places(found, {secret})
        assert "file .env" in holders
        assert {place.partition(" ")[0] for place in holders} <= {"file", "environ"}, holders
        assert not any(place.startswith("file logs/") for place in holders)
    holders = places(found, secrets)
    modes = {each.place: each.mode for each in found if each.place in holders and each.mode is not None}
    assert {place: mode for place, mode in modes.items() if mode & 0o077} == {}
