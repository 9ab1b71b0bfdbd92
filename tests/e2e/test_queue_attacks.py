"""What a tenant can try against the queue, on a running stack whose only replica has one slot.

Whatever it sends, the others keep their share and the slot is never lost. It learns nothing of the others.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from gateway.errors import StoreUnavailable
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import MODEL, GenerationRequest, client
from tests.e2e.queue_crowd import QueueView, all_running, check_runs, ids_of, most_at_once
from tests.e2e.stack import PATIENT, Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

FORBIDDEN = "forbidden:latest"
PACE_TOKENS_PER_S = 100
WORDS = 10
MAX_WAIT_S = 4
MAX_PER_TENANT = 5
MAX_BYTES_PER_TENANT = 300_000
LARGE_BYTES = 130_000
# How long the attacks last while another tenant has requests too.
ATTACK_S = 5
# A request that is denied at once is sent again after this time: the machine has other work.
PAUSE_S = 0.1
# The victim's prompt, tenant and key have this word. No answer to the attacker may.
MARK = "victim"
FORGED_HEADERS = {
    "x-nz-attempt": "1",
    "x-nz-retry-after": "0",
    "x-nz-grant": "{}",
    "x-nz-cluster": "backend:sim",
    "x-nz-held-whole": "1",
    "x-nz-peer": "127.0.0.1",
    "x-envoy-attempt-count": "9",
    "x-envoy-max-retries": "9",
    "x-envoy-retry-on": "5xx,retriable-4xx",
    "x-envoy-ratelimited": "true",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-queue-wait-ms": "0",
    "x-queue-position": "1",
    "x-priority": "interactive",
    "x-weight": "100",
    "x-tenant": MARK,
    "priority": "u=0, i",
    "x-request-id": "00000000-0000-4000-8000-000000000000",
    "x-ratelimit-remaining-requests": "1000000",
}
FORGED_FIELDS: dict[str, Any] = {
    "priority": "interactive",
    "weight": 100,
    "class": 0,
    "tenant": MARK,
    "tenant_id": 1,
    "queue": {"priority": 0, "arrived": 1, "charged": -1_000_000},
    "service_tier": "priority",
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Answer:
    """A finished answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The value of `X-Gateway-Error`."""
        return self.headers.get("x-gateway-error")

    @property
    def request_id(self) -> str:
        """The value of `X-Request-ID`."""
        return self.headers["x-request-id"]


@dataclass(frozen=True)
class Bench:
    """The stack, its backend, what its queue and its ledger have, and the keys.

    The attacker has three keys, of which the last one is for batch requests.
    """

    stack: Stack
    backend: Simulator
    queue: QueueView
    ledger_view: LedgerView
    session: aiohttp.ClientSession
    attacker: tuple[str, ...]
    victim: str

    async def send(self, key: str, words: int = WORDS, **changes: Any) -> Answer:
        """Sends a request, with `headers` and `padding_bytes` of white space in `changes`, and fields of the body."""
        request = GenerationRequest("/api/chat", key, words=words, output_tokens_max=words)
        headers = {**changes.pop("headers", {}), **request.headers, "content-type": "application/json"}
        padding = b" " * changes.pop("padding_bytes", 0)
        body = json.dumps({**request.body, **changes}).encode() + padding
        async with self.session.post(request.path, data=body, headers=headers) as response:
            received = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, received, await response.read())

    async def usage(self, key: str) -> dict[str, Any]:
        """The queue as `GET /v1/usage` reports it to a key."""
        async with self.session.get("/v1/usage", headers={"Authorization": f"Bearer {key}"}) as response:
            return dict((await response.json())["queue"])

    async def wait_for(self, *, running: int, waiting: int) -> None:
        """Waits until this number of requests have the slot, and this number wait for it."""
        await self.queue.wait_for(
            lambda status: (all_running(status), len(status.tickets)) == (running, waiting),
            f"never {running} and {waiting}",
        )

    async def check_accounts(self) -> None:
        """Checks that nothing is held, the counters equal the ledger, and the slot is free and can be used."""
        await self.queue.wait_until_idle()
        await self.ledger_view.wait_until_settled()
        for tenant in ("attacker", MARK):
            tenant_id = await self.ledger_view.tenant_id(tenant)

            async def equal(tenant_id: int = tenant_id) -> bool:
                found = await self.ledger_view.counters(tenant_id)
                return found == await self.ledger_view.expected_counters(tenant_id)

            await eventually_async(equal, retry_on=(StoreUnavailable,), failure=f"the counters of {tenant} are wrong")
            rows = Counter(row["request_id"] for row in await self.ledger_view.tenant_rows(tenant_id))
            assert set(rows.values()) == {1}
        records = [record for record in self.backend.requests() if record["finished"] == "complete"]
        check_runs(records)
        assert most_at_once(records) == 1
        assert (await self.send(self.victim, 1)).status == 200


@pytest.fixture(scope="module")
def backend() -> Iterator[Simulator]:
    models = f"{MODEL},{FORBIDDEN}"
    with simulator("--tokens-per-s", str(PACE_TOKENS_PER_S), "--num-parallel", "1", "--models", models) as running:
        yield running


@pytest.fixture(scope="module")
def stack(backend: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with up(
        tmp_path_factory.mktemp("attacks") / "state",
        *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
        OLLAMA_BACKENDS=json.dumps([{"name": "sim", "base_url": backend.url, "slots": 1}]),
        QUEUE_MAX_WAIT_S=str(MAX_WAIT_S),
        QUEUE_MAX_PER_TENANT=str(MAX_PER_TENANT),
        QUEUE_MAX_BYTES_PER_TENANT=str(MAX_BYTES_PER_TENANT),
        **PATIENT,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def keys(stack: Stack) -> tuple[str, ...]:
    """The keys of the attacker, which may use one of the models, and that of the victim."""
    stack.cli("create-tenant", "--name", "attacker", "--models", MODEL)
    attacker = [
        stack.cli("create-key", "--tenant", "attacker", "--name", f"{priority}-{number}", "--priority", priority)["key"]
        for number, priority in enumerate(("interactive", "interactive", "batch"))
    ]
    return (*attacker, stack.new_key(MARK))


@pytest_asyncio.fixture(loop_scope="module")
async def bench(stack: Stack, backend: Simulator, keys: tuple[str, ...]) -> AsyncIterator[Bench]:
    *attacker, victim = keys
    async with client(stack.url, "attacks") as session, open_ledger_view(stack) as ledger_view:
        backend.clear_records()
        running = Bench(stack, backend, QueueView(ledger_view), ledger_view, session, tuple(attacker), victim)
        yield running
        await running.check_accounts()


async def test_nothing_in_a_request_makes_it_the_next_one_or_another_tenants(bench: Bench) -> None:
    batch = bench.attacker[2]
    blocks = asyncio.create_task(bench.send(bench.victim, 2 * PACE_TOKENS_PER_S))
    await bench.wait_for(running=1, waiting=0)
    forged = asyncio.create_task(bench.send(batch, headers=FORGED_HEADERS, **FORGED_FIELDS))
    await bench.wait_for(running=1, waiting=1)
    seen = await bench.usage(batch)
    assert (seen["running"], seen["waiting"], seen["position"]) == (0, 1, 1)
    honest = asyncio.create_task(bench.send(bench.victim))
    await bench.wait_for(running=1, waiting=2)
    answers = [await each for each in (blocks, honest, forged)]
    assert [answer.status for answer in answers] == [200] * 3
    records = sorted(bench.backend.requests(), key=lambda record: float(record["started_at"]))
    assert ids_of(records) == [answer.request_id for answer in answers]
    *_, record = records
    assert set(record["headers"]) <= {"host", "content-type", "content-length", "accept", "x-request-id"}
    assert record["headers"]["x-request-id"] != FORGED_HEADERS["x-request-id"]
    rows = await bench.ledger_view.wait_for_rows([answer.request_id for answer in answers])
    attacker = await bench.ledger_view.tenant_id("attacker")
    assert [rows[answer.request_id][0]["tenant_id"] == attacker for answer in answers] == [False, False, True]


async def test_bounds_and_models_are_checked_before_a_request_takes_a_place(bench: Bench) -> None:
    first, second, _ = bench.attacker
    blocks = asyncio.create_task(bench.send(bench.victim, MAX_WAIT_S * PACE_TOKENS_PER_S + 2 * PACE_TOKENS_PER_S))
    await bench.wait_for(running=1, waiting=0)
    for model in (FORBIDDEN, "missing:latest", "\t", "llama3.2\u0000", "backend:sim"):
        refused = await bench.send(first, model=model)
        assert (refused.status in (400, 403), refused.headers.get("Retry-After")) == (True, None), refused
    await bench.wait_for(running=1, waiting=0)
    large = [asyncio.create_task(bench.send(key, padding_bytes=LARGE_BYTES)) for key in (first, second)]
    await bench.wait_for(running=1, waiting=2)
    too_many_bytes = await bench.send(first, padding_bytes=LARGE_BYTES)
    assert (too_many_bytes.status, too_many_bytes.code) == (429, "queue_full")
    small = [asyncio.create_task(bench.send(bench.attacker[number % 3])) for number in range(MAX_PER_TENANT - 2)]
    await bench.wait_for(running=1, waiting=MAX_PER_TENANT)
    for key in bench.attacker:
        too_many = await bench.send(key)
        assert (too_many.status, too_many.code) == (429, "queue_full")
    honest = asyncio.create_task(bench.send(bench.victim, padding_bytes=LARGE_BYTES))
    await bench.wait_for(running=1, waiting=MAX_PER_TENANT + 1)
    late = await asyncio.gather(*large, *small)
    assert {(answer.status, answer.code) for answer in late} == {(503, "queue_timeout")}
    assert not blocks.done()
    honest.cancel()
    assert (await blocks).status == 200
    assert len(bench.backend.requests()) == 1


@dataclass
class Attack:
    """The attacks of a tenant, and all that it received. Each attack is repeated until `is_over` is set."""

    bench: Bench
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    answers: list[Answer] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def callers(self) -> list[Callable[[], Awaitable[None]]]:
        """The attacks that run at the same time: more requests than may wait, and one caller of each other kind."""
        return [*[self._flood] * 2 * MAX_PER_TENANT, *[self._hang_up] * 3, self._forge, self._large, self._other_models]

    async def repeat(self, attack: Callable[[], Awaitable[None]]) -> None:
        """Repeats an attack until all are over."""
        while not self.is_over.is_set():
            await attack()

    async def _send(self, **changes: Any) -> None:
        answer = await self.bench.send(self.bench.attacker[next(self._numbers) % 3], **changes)
        self.answers.append(answer)
        if answer.status != 200:
            await asyncio.sleep(PAUSE_S)

    async def _flood(self) -> None:
        await self._send()

    async def _forge(self) -> None:
        await self._send(headers=FORGED_HEADERS, **FORGED_FIELDS)

    async def _large(self) -> None:
        await self._send(padding_bytes=LARGE_BYTES)

    async def _other_models(self) -> None:
        await self._send(model=(FORBIDDEN, "missing")[next(self._numbers) % 2])

    async def _hang_up(self) -> None:
        """Sends a part of a request or all of it, and disconnects at once, later, or after the first bytes."""
        number = next(self._numbers)
        request = GenerationRequest("/api/chat", self.bench.attacker[number % 3], words=WORDS)
        body = json.dumps(request.body).encode()
        head = (
            f"POST {request.path} HTTP/1.1\r\nhost: g\r\nauthorization: {request.headers['Authorization']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        sent = (head + body, head + body, head + body, head + body[:20], head[:40])[number % 5]
        parts = urlsplit(self.bench.stack.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(sent)
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout((0.0, 0.02, 0.1, 0.5, MAX_WAIT_S)[number % 7 % 5]):
                self.received.append(await reader.read(200))
        writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


async def test_attacks_at_the_same_time_change_no_share_and_reveal_nothing_of_others(bench: Bench) -> None:
    attack = Attack(bench)
    answers: list[Answer] = []
    begins = datetime.now(UTC) + timedelta(seconds=1)
    ends = begins + timedelta(seconds=ATTACK_S)

    async def caller() -> None:
        while datetime.now(UTC) < ends:
            answers.append(
                await bench.send(
                    bench.victim, messages=[{"role": "user", "content": f"{MARK}. Answer in {WORDS} words."}]
                )
            )

    async with asyncio.TaskGroup() as tasks:
        for each in attack.callers():
            tasks.create_task(attack.repeat(each))
        await asyncio.gather(*(caller() for _ in range(3)))
        attack.is_over.set()
    assert {answer.status for answer in answers} == {200}
    assert {200, 403, 429} <= {answer.status for answer in attack.answers} <= {200, 403, 429, 503}
    await bench.queue.wait_until_idle()
    await bench.ledger_view.wait_until_settled()
    rows = {
        name: await bench.ledger_view.tenant_rows(await bench.ledger_view.tenant_id(name))
        for name in ("attacker", MARK)
    }
    tokens = {
        name: sum(row["input_tokens"] + row["output_tokens"] for row in found if begins <= row["ts"] < ends)
        for name, found in rows.items()
    }
    # A request that is cut before its first token is charged one, which its row does not have.
    assert tokens[MARK] >= 0.85 * tokens["attacker"] > 0, tokens
    received = b"\n".join([*attack.received, *(repr(answer).encode() for answer in attack.answers)])
    others = {str(row["request_id"]) for row in rows[MARK]} | {
        MARK,
        bench.victim[:12],
        urlsplit(bench.backend.url).netloc,
    }
    assert not [each for each in others if each.encode() in received]
