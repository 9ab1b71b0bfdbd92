"""Processes that are killed or suspended under load: each request has one row, no hold remains, counters are right.

The last tests check clients that wait for a minute on the shared stack. They are in this file because the minute passes
while the other tests run, and all tests of a file run in one worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.keys.key_format import generate
from gateway.errors import StoreUnavailable
from gateway.quota.port import Counters
from tests.e2e.ledger_view import LedgerView, audit_row, open_ledger_view
from tests.e2e.load import CallResult, GenerationRequest, client, load, send
from tests.e2e.retry_after import CODES, retry_after_refusal
from tests.e2e.sockets import Answer, send_slow_body
from tests.e2e.stack import Simulator, Stack, simulator, up
from tests.e2e.test_edge import Edge, check_refused
from tests.polling import eventually_async
from tests.ports import free_port

# Starts the clients of the last tests before the first one.
pytestmark = pytest.mark.usefixtures("retries", "slow_body")

CONNECTIONS = 16
# Fewer than the connections, so that some requests exceed the limit.
CONCURRENT_MAX = 12
SERVED_MIN = 15
PACE_TOKENS_PER_S = 60
RELEASE_TIMEOUT_S = 30.0
# Leases must expire first, and PostgreSQL may have to recover.
ROWS_TIMEOUT_S = 40.0
# These processes serve requests. If one of them is killed, the reaper settles its requests as lost.
ON_REQUEST_PATH = ("authz-0", "meter-0", "envoy")
AUDIT_BUFFER_SIZE = 20
SETTINGS = {
    "HOLD_LEASE_S": "4",
    "MODEL_DISCOVERY_REFRESH_S": "1",
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
    "AUTH_FAILURE_RATE_LIMIT_PER_IP_PER_MIN": "1000000",
    # These tests are about accounting, so hashing is cheap.
    "ARGON2_TIME_COST": "1",
    "ARGON2_MEMORY_COST_KIB": "1024",
}


@dataclass(frozen=True)
class Trial:
    """A stack whose processes are killed, its backend, and its load. `key` may run CONCURRENT_MAX requests at once."""

    stack: Stack
    upstream: Simulator
    key: str
    mix: Sequence[GenerationRequest]

    @asynccontextmanager
    async def load(self, name: str, *, may_be_lost: bool = False) -> AsyncIterator[list[CallResult]]:
        """Runs load before, during and after the block, then checks that all concurrency is free and the ledger right.

        `name` is the user agent of the load. With `may_be_lost`, its requests may have the outcome `lost`.
        """
        self.upstream.clear_records()
        async with load(self.stack.url, self.mix, CONNECTIONS, name) as results:
            await wait_until_served(results)
            yield results
            await wait_until_served(results)
        await eventually_async(self.is_all_released, RELEASE_TIMEOUT_S, failure="concurrency was not released")
        async with open_ledger_view(self.stack) as ledger_view:
            await check_rows(ledger_view, self.upstream, name, results, may_be_lost=may_be_lost)
            await check_counters(ledger_view, "loaded")

    async def is_all_released(self) -> bool:
        """Whether CONCURRENT_MAX streams can be open at the same time."""
        request = GenerationRequest("/api/chat", self.key, words=3000)
        async with client(self.stack.url, "all at once") as session, AsyncExitStack() as streams:
            posts = [
                session.post(request.path, json=request.body, headers=request.headers) for _ in range(CONCURRENT_MAX)
            ]
            answers = await asyncio.gather(*map(streams.enter_async_context, posts))
            return {answer.status for answer in answers} == {200}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Simulator]:
    with simulator() as running:
        running.behave(tokens_per_s=PACE_TOKENS_PER_S)
        yield running


@pytest.fixture(scope="module")
def trial(upstream: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Load with clients that read the complete answer, clients that disconnect, and clients that are refused."""
    state_dir = tmp_path_factory.mktemp("trial") / "state"
    here = ("--listen", f"127.0.0.1:{free_port()}", "--backend", f"sim={upstream.url}")
    with up(state_dir, *here, "--workers", "2", **SETTINGS) as stack:
        key, exhausted = stack.new_key("loaded"), stack.new_key("exhausted")
        stack.cli("set-limits", "--tenant", "loaded", "--concurrent", str(CONCURRENT_MAX))
        stack.cli("set-budget", "--tenant", "exhausted", "--total", "1")
        mix = [
            GenerationRequest("/api/chat", key),
            GenerationRequest("/v1/chat/completions", key, words=60),
            GenerationRequest("/v1/messages", key),
            GenerationRequest("/api/chat", key, stream=False),
            GenerationRequest("/v1/chat/completions", key, disconnect_after_frames=3, words=60),
            GenerationRequest("/api/chat", generate().secret.get_secret_value()),
            GenerationRequest("/v1/chat/completions", key, stream=False),
            GenerationRequest("/api/chat", key, words=120),
            GenerationRequest("/v1/messages", key, stream=False, model="unknown"),
            GenerationRequest("/v1/messages", key, disconnect_after_frames=5, words=120),
            GenerationRequest("/v1/chat/completions", exhausted),
            GenerationRequest("/v1/messages", key, stream=False),
            GenerationRequest("/api/chat", key, disconnect_after_frames=1, words=30),
        ]
        yield Trial(stack, upstream, key, mix)


async def wait_until_served(results: Sequence[CallResult]) -> None:
    """Waits until SERVED_MIN requests that start after this call are served."""
    before = len(results)

    async def enough() -> bool:
        return sum(result.complete for result in results[before:]) >= SERVED_MIN

    await eventually_async(enough, failure=lambda: Counter((result.status, result.code) for result in results[before:]))


async def check_rows(
    ledger_view: LedgerView, upstream: Simulator, name: str, results: Sequence[CallResult], *, may_be_lost: bool = False
) -> None:
    """Checks that each request that a client or the backend saw has one row, and that the row agrees with both."""
    reached = {record["headers"]["x-request-id"]: record for record in upstream.requests()}
    answered = {result.request_id: result for result in results if result.request_id}
    expected = answered.keys() | reached.keys()
    rows = await ledger_view.wait_for_rows(expected, ROWS_TIMEOUT_S)
    missing = [answered.get(request_id, reached.get(request_id)) for request_id in expected - rows.keys()]
    assert not missing, "\n".join([f"{len(missing)} of {len(expected)} have no row:", *map(str, missing[:10])])
    unanswered = await ledger_view.request_ids(name) - answered.keys()
    assert len(unanswered) <= sum(result.request_id is None for result in results), (
        "rows of requests that no client sent"
    )
    for request_id, found in rows.items():
        assert len(found) == 1, found
        if result := answered.get(request_id):
            check_row(found[0], result, reached.get(request_id), may_be_lost=may_be_lost)


def check_row(row: dict[str, Any], result: CallResult, record: dict[str, Any] | None, *, may_be_lost: bool) -> None:
    """Checks a row. `record` is the record of the backend, None if the request did not reach it."""
    context = (row, result, record)
    generated = record["output_tokens"] if record else 0
    assert row["output_tokens"] <= generated, context
    match row["outcome"]:
        case "denied":
            assert record is None, context
            # A refusal passes through the meter. If the meter is killed meanwhile, the client gets `unavailable`.
            assert result.code in (row["code"], "unavailable"), context
        case "lost":
            # The row has the progress that the meter reported last, which may be less than what was delivered.
            assert may_be_lost, context
        case "complete":
            assert record, context
            assert (row["input_tokens"], row["output_tokens"]) == (record["prompt_tokens"], generated), context
        case _:
            assert not result.complete, context
            assert result.content_frames <= row["output_tokens"], context


async def check_counters(ledger_view: LedgerView, tenant: str) -> None:
    """Checks that nothing is held, no event waits, and the live counters equal the totals of the ledger."""
    tenant_id = await ledger_view.tenant_id(tenant)
    await ledger_view.wait_until_settled(ROWS_TIMEOUT_S)
    found: list[Counters | None] = []

    async def equal() -> bool:
        found[:] = [await ledger_view.counters(tenant_id), await ledger_view.expected_counters(tenant_id)]
        return found[0] == found[1]

    await eventually_async(equal, retry_on=(StoreUnavailable,), failure=lambda: found)


@pytest.mark.parametrize("victim", ["authz-0", "meter-0", "control", "redis", "postgres", "envoy"])
async def test_a_process_killed_under_load_loses_no_row_and_leaves_no_hold(trial: Trial, victim: str) -> None:
    (pid,) = trial.stack.pids(victim)

    async def replaced() -> bool:
        return bool(trial.stack.pids(victim)) and pid not in trial.stack.pids(victim)

    async with trial.load(victim, may_be_lost=victim in ON_REQUEST_PATH):
        os.kill(pid, signal.SIGKILL)
        await eventually_async(replaced)


async def test_redis_losing_its_data_under_load_loses_no_row_and_no_count(trial: Trial) -> None:
    async with open_ledger_view(trial.stack) as ledger_view, trial.load("flushall"):
        await ledger_view.redis.flushall()


async def test_while_redis_hangs_running_requests_finish_and_new_ones_get_503(trial: Trial) -> None:
    async with trial.load("hanging redis") as results, client(trial.stack.url, "during") as session:
        with trial.stack.frozen("redis"):
            running = [
                result
                for result in results
                if result.status == 200 and not result.complete and result.request.disconnect_after_frames is None
            ]

            async def finished() -> bool:
                return all(result.complete for result in running)

            new = CallResult(GenerationRequest("/api/chat", trial.key))
            await send(session, new)
            assert (new.status, new.code) == (503, "unavailable")
            assert running
            await eventually_async(finished, failure=lambda: running)
        results.append(new)


async def test_without_postgresql_verified_keys_are_served_until_the_backlog_is_full(
    upstream: Simulator, tmp_path: Path
) -> None:
    upstream.clear_records()
    here = ("--listen", f"127.0.0.1:{free_port()}", "--backend", f"sim={upstream.url}")
    with up(tmp_path / "state", *here, "--workers", "1", AUDIT_BUFFER_SIZE=str(AUDIT_BUFFER_SIZE), **SETTINGS) as stack:
        verified, unknown = stack.new_key("verified"), stack.new_key("unknown")
        results: list[CallResult] = []
        async with client(stack.url, "backlog") as session:

            async def chat(key: str) -> CallResult:
                results.append(CallResult(GenerationRequest("/api/chat", key, words=2)))
                await send(session, results[-1])
                return results[-1]

            assert (await chat(verified)).complete
            with stack.frozen("postgres"):
                while (last := await chat(verified)).status == 200 and len(results) < 2 * AUDIT_BUFFER_SIZE:
                    assert last.complete
                assert (last.status, last.code) == (503, "audit_backlog")
                refused = await chat(unknown)
                assert (refused.status, refused.code) == (503, "unavailable")

            async def served_again() -> bool:
                return (await chat(unknown)).complete

            await eventually_async(served_again)
        async with open_ledger_view(stack) as ledger_view:
            await check_rows(ledger_view, upstream, "backlog", results)
            await check_counters(ledger_view, "verified")


@pytest.fixture(scope="module")
def retries(stack: Stack) -> Iterator[dict[str, Future[tuple[httpx.Response, httpx.Response]]]]:
    """One client per error code that is refused and retries, up to a minute later, while other tests run."""
    with ThreadPoolExecutor(len(CODES)) as clients:
        yield {code: clients.submit(retry_after_refusal, stack, code) for code in CODES}


@pytest.mark.parametrize("code", CODES)
def test_a_client_that_waits_for_retry_after_is_admitted(
    retries: dict[str, Future[tuple[httpx.Response, httpx.Response]]], code: str
) -> None:
    refused, answer = retries[code].result(timeout=120)
    assert refused.headers["x-gateway-error"] == code
    # After throttling, the key is checked again and is still invalid.
    assert answer.status_code == (401 if code == "auth_throttled" else 200), answer.text


@pytest.fixture(scope="module")
def slow_body(stack: Stack, key: str) -> Iterator[Future[Answer]]:
    """A request whose body takes more than a minute to arrive, while other tests run."""
    with ThreadPoolExecutor(1) as client:
        yield client.submit(send_slow_body, stack.url, key)


def test_a_body_that_arrives_too_slowly_times_out_and_is_recorded(
    stack: Stack, key: str, ollama: Simulator, spare: Simulator, slow_body: Future[Answer]
) -> None:
    edge = Edge(stack, key, (ollama, spare))
    answer = slow_body.result(timeout=180)
    check_refused(edge, answer, 408, "request_timeout")
    assert json.loads(answer.body)["request_id"] == answer.request_id, "the error has the format of the surface"
    row = audit_row(stack, answer.request_id)
    assert (row["path"], row["outcome"], row["status"], row["code"]) == (
        "/v1/messages",
        "denied",
        408,
        "request_timeout",
    )
    assert row["backend"] is None
