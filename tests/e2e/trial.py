"""A stack under mixed load, and the checks that hold whatever happens to it meanwhile.

Each request has one row that agrees with what its client and the backend saw, no hold remains, and the live counters
equal the ledger.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from authz.keys.key_format import generate
from gateway import settings
from gateway.errors import Code, StoreUnavailable
from gateway.quota.port import Counters
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import CallResult, GenerationRequest, client, load
from tests.e2e.stack import Simulator, Stack, backends, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

CONNECTIONS = 16
# Fewer than the connections, so that some requests exceed the limit.
CONCURRENT_MAX = 12
SERVED_MIN = 15
PACE_TOKENS_PER_S = 60
# A meter retains a hold for up to 30 s while it waits for the record of a killed Envoy and records of others arrive.
RELEASE_TIMEOUT_S = 60.0
# The streams of one check must be released before the next, which takes Envoy's record of their ends.
RELEASE_POLL_S = 1.0
# The same, leases must expire, and PostgreSQL may have to recover.
ROWS_TIMEOUT_S = 70.0
# A token of the simulated Ollama has at most eight bytes, and an estimate has one token for three bytes.
ESTIMATED_TOKENS_MAX = 3
SETTINGS = {
    # Both workers serve, whatever the number of cores.
    "PREFERRED_AUTHZ_WORKERS": "2",
    "HOLD_LEASE_S": "4",
    "MODEL_DISCOVERY_REFRESH_S": "1",
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
    "AUTH_FAILURE_RATE_LIMIT_PER_IP_PER_MIN": "1000000",
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
        async with open_ledger_view(self.stack) as ledger_view:
            # Redis first, because the check with streams costs as much as a second of load.
            await ledger_view.wait_until_released(RELEASE_TIMEOUT_S)
            await eventually_async(
                self.is_all_released, RELEASE_TIMEOUT_S, poll_s=RELEASE_POLL_S, failure="concurrency was not released"
            )
            early = {line["request_id"] for line in self.stack.logged("released_before_settled")}
            await check_rows(
                ledger_view, self.upstream, name, results, may_be_lost=may_be_lost, released_before_settled=early
            )
            await check_counters(ledger_view, "loaded")

    async def kill(self, prefix: str) -> None:
        """Kills the processes whose name starts with `prefix`, and waits until others have replaced them."""
        killed = self.stack.pids(prefix)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

        def replaced() -> bool:
            return len({*self.stack.pids(prefix)} - {*killed}) == len(killed)

        await eventually_async(replaced)

    async def is_all_released(self) -> bool:
        """Whether CONCURRENT_MAX streams can be open at the same time."""
        request = GenerationRequest("/api/chat", self.key, words=3000)
        async with client(self.stack.url, "all at once") as session, AsyncExitStack() as streams:
            posts = [
                session.post(request.path, json=request.body, headers=request.headers) for _ in range(CONCURRENT_MAX)
            ]
            answers = await asyncio.gather(*map(streams.enter_async_context, posts))
            return {answer.status for answer in answers} == {200}


@contextmanager
def paced_simulator() -> Iterator[Simulator]:
    """A simulated Ollama that takes time to answer, so that requests run when a fault happens."""
    with simulator() as running:
        running.behave(tokens_per_s=PACE_TOKENS_PER_S)
        yield running


@contextmanager
def running_trial(state_dir: Path, upstream: Simulator, **settings: str) -> Iterator[Trial]:
    """A stack with two workers of each service, in front of `upstream`. `settings` replace some of SETTINGS."""
    here = ("--listen", f"127.0.0.1:{free_port()}")
    with up(state_dir, *here, "--workers", "2", **{**SETTINGS, **backends(sim=upstream.url), **settings}) as stack:
        yield Trial(stack, upstream, *mixed_requests(stack))


def mixed_requests(stack: Stack) -> tuple[str, Sequence[GenerationRequest]]:
    """The key of the tenant `loaded`, and a mix of requests: clients that read the complete answer, clients that
    disconnect, and clients that are refused."""
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
    return key, mix


async def wait_until_served(results: Sequence[CallResult]) -> None:
    """Waits until SERVED_MIN requests that start after this call are served."""
    before = len(results)

    async def enough() -> bool:
        return sum(result.complete for result in results[before:]) >= SERVED_MIN

    await eventually_async(enough, failure=lambda: Counter((result.status, result.code) for result in results[before:]))


async def check_rows(
    ledger_view: LedgerView,
    upstream: Simulator,
    name: str,
    results: Sequence[CallResult],
    *,
    may_be_lost: bool = False,
    released_before_settled: Collection[str] = (),
) -> None:
    """Checks that each request that a client or the backend saw has one row, and that the row agrees with both.

    With `may_be_lost`, requests without a complete answer may have the outcome `lost`, and so may the request ids in
    `released_before_settled`.
    """
    reached = {record["headers"]["x-request-id"]: record for record in upstream.requests()}
    answered = {result.request_id: result for result in results if result.request_id}
    # A denial because too many entries wait has no row. While they do, a denial for another reason may have none.
    codes = {result.code for result in answered.values()}
    unrecorded = {Code.AUDIT_BACKLOG, Code.UNAVAILABLE} if Code.AUDIT_BACKLOG in codes else set()
    expected = {request_id for request_id, result in answered.items() if result.code not in unrecorded} | reached.keys()
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
            settled_first = result.complete and request_id not in released_before_settled
            check_row(found[0], result, reached.get(request_id), may_be_lost=may_be_lost and not settled_first)


def output_tokens_max(row: dict[str, Any], generated: int) -> int:
    """The output tokens that a row may have when the backend generated `generated`.

    A frame of several words is estimated by its size, and never below its tokens.
    """
    return ESTIMATED_TOKENS_MAX * generated if row["usage_source"] == "estimated" else generated


def check_row(row: dict[str, Any], result: CallResult, record: dict[str, Any] | None, *, may_be_lost: bool) -> None:
    """Checks a row. `record` is the record of the backend, None if the request did not reach it."""
    context = (row, result, record)
    generated = record["output_tokens"] if record else 0
    assert row["output_tokens"] <= output_tokens_max(row, generated), context
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


async def check_budget_usage(ledger_view: LedgerView, tenant: str) -> None:
    """Checks that the rows of a tenant add up to what counts against its budgets."""
    tenant_id = await ledger_view.tenant_id(tenant)
    assert await ledger_view.recorded_tokens(tenant_id) == await ledger_view.budget_usage(tenant_id)


async def scrape(stack: Stack, process: str) -> str:
    """The metrics of a process. Raises httpx.HTTPError."""
    admin = settings.load(Path(stack.ready["env_file"])).envoy_admin_listen.removeprefix("unix:")
    transport = httpx.AsyncHTTPTransport(uds=str(Path(admin).with_name(f"{process}-metrics.sock")))
    async with httpx.AsyncClient(transport=transport) as scraper:
        return (await scraper.get(f"http://{process}/metrics")).text


async def wait_until_submitted(stack: Stack, timeout_s: float) -> None:
    """Waits until Redis has every entry that the services could not submit while it was unavailable."""

    async def is_idle(process: str) -> bool:
        pending = re.findall(r"^neuronetz_outbox_pending{.*} (\S+)$", await scrape(stack, process), re.MULTILINE)
        return bool(pending) and not any(map(float, pending))

    for process in stack.names():
        if process.startswith(("authz", "meter")):
            await eventually_async(partial(is_idle, process), timeout_s, retry_on=(httpx.HTTPError,))


async def check_metrics(stack: Stack, ledger_view: LedgerView, tenant: str) -> None:
    """Checks that the token counter of control equals the ledger of a tenant, whichever processes were killed."""

    async def counted() -> list[int]:
        text = await scrape(stack, "control")
        pattern = rf'^neuronetz_recorded_tokens_total{{kind="\w+",tenant="{tenant}"}} (\S+)$'
        return [int(float(tokens)) for tokens in re.findall(pattern, text, re.MULTILINE)]

    tokens = await eventually_async(counted, retry_on=(httpx.HTTPError,), failure="control serves no token counter")
    assert sum(tokens) == await ledger_view.recorded_tokens(await ledger_view.tenant_id(tenant))
