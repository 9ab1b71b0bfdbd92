"""Whatever dies under load: every request has one row, nothing is held afterwards, and the counters are right."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from authz.keys.key_format import generate
from gateway.errors import StoreUnavailable
from gateway.quota.port import Counters
from tests.e2e.ledger_view import Books, opened
from tests.e2e.load import Ask, Seen, client, load, send
from tests.e2e.stack import Simulator, Stack, free_port, simulator, up
from tests.polling import eventually_async

# What takes a minute passes it while these tests run.
pytestmark = pytest.mark.usefixtures("comebacks", "slow_body")

CONNECTIONS = 16
# Fewer than the connections, so that some requests find no place.
CONCURRENT = 12
SERVED = 15
PACE_TOKENS_PER_S = 60
FREE_TIMEOUT_S = 30.0
# Leases must run out, and PostgreSQL may have to recover.
ROWS_TIMEOUT_S = 40.0
# What dies with a request in its hands leaves it to the reaper.
ON_THE_WAY = ("authz-0", "meter-0", "envoy")
ROOM = 20
SETTINGS = {
    "HOLD_LEASE_S": "4",
    "MODEL_DISCOVERY_REFRESH_S": "1",
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
    "AUTH_FAILURE_RATE_LIMIT_PER_IP_PER_MIN": "1000000",
    # The load is there to be accounted, not to hash.
    "ARGON2_TIME_COST": "1",
    "ARGON2_MEMORY_COST_KIB": "1024",
}


@dataclass(frozen=True)
class Trial:
    """A stack in which everything may die, what it stands before, and its callers. `key` may run CONCURRENT at once."""

    stack: Stack
    upstream: Simulator
    key: str
    mix: Sequence[Ask]

    @asynccontextmanager
    async def load(self, name: str, *, may_be_lost: bool = False) -> AsyncIterator[list[Seen]]:
        """Load before, during and after what the block does. In the end everything is free again and the books are
        right. The audit rows of this load carry its name; `may_be_lost` says that some may have that outcome."""
        self.upstream.forget()
        async with load(self.stack.url, self.mix, CONNECTIONS, name) as seen:
            await served(seen)
            yield seen
            await served(seen)
        await eventually_async(self.all_is_free, FREE_TIMEOUT_S, failure="concurrency was not given back")
        async with opened(self.stack) as books:
            await every_request_has_one_row(books, self.upstream, name, seen, may_be_lost=may_be_lost)
            await counters_are_right(books, "loaded")

    async def all_is_free(self) -> bool:
        """Whether as many streams as the key may have are open at the same time."""
        ask = Ask("/api/chat", self.key, words=3000)
        async with client(self.stack.url, "all at once") as session, AsyncExitStack() as streams:
            requests = [session.post(ask.path, json=ask.body, headers=ask.headers) for _ in range(CONCURRENT)]
            answers = await asyncio.gather(*map(streams.enter_async_context, requests))
            return {answer.status for answer in answers} == {200}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Simulator]:
    with simulator() as running:
        running.behave(tokens_per_s=PACE_TOKENS_PER_S)
        yield running


@pytest.fixture(scope="module")
def trial(upstream: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Every kind of caller: patient ones, some who leave, and some who are refused."""
    state_dir = tmp_path_factory.mktemp("trial") / "state"
    here = ("--listen", f"127.0.0.1:{free_port()}", "--backend", f"sim={upstream.url}")
    with up(state_dir, *here, "--workers", "2", **SETTINGS) as stack:
        key, poor = stack.new_key("loaded"), stack.new_key("poor")
        stack.cli("set-limits", "--tenant", "loaded", "--concurrent", str(CONCURRENT))
        stack.cli("set-budget", "--tenant", "poor", "--total", "1")
        mix = [
            Ask("/api/chat", key),
            Ask("/v1/chat/completions", key, words=60),
            Ask("/v1/messages", key),
            Ask("/api/chat", key, stream=False),
            Ask("/v1/chat/completions", key, leaves_after=3, words=60),
            Ask("/api/chat", generate().secret.get_secret_value()),
            Ask("/v1/chat/completions", key, stream=False),
            Ask("/api/chat", key, words=120),
            Ask("/v1/messages", key, stream=False, model="unheard-of"),
            Ask("/v1/messages", key, leaves_after=5, words=120),
            Ask("/v1/chat/completions", poor),
            Ask("/v1/messages", key, stream=False),
            Ask("/api/chat", key, leaves_after=1, words=30),
        ]
        yield Trial(stack, upstream, key, mix)


async def served(seen: Sequence[Seen]) -> None:
    """Returns when so many requests that begin from now on have been served."""
    before = len(seen)

    async def enough() -> bool:
        return sum(one.whole for one in seen[before:]) >= SERVED

    await eventually_async(enough, failure=lambda: Counter((one.status, one.code) for one in seen[before:]))


async def every_request_has_one_row(
    books: Books, upstream: Simulator, name: str, seen: Sequence[Seen], *, may_be_lost: bool = False
) -> None:
    """What a caller or the backend has seen has a row, and that row tells the same."""
    reached = {record["headers"]["x-request-id"]: record for record in upstream.requests()}
    answered = {one.request_id: one for one in seen if one.request_id}
    expected = answered.keys() | reached.keys()
    rows = await books.rows_once_there(expected, ROWS_TIMEOUT_S)
    missing = [answered.get(request_id, reached.get(request_id)) for request_id in expected - rows.keys()]
    assert not missing, "\n".join([f"{len(missing)} of {len(expected)} have no row:", *map(str, missing[:10])])
    unseen = await books.request_ids(name) - answered.keys()
    assert len(unseen) <= sum(one.request_id is None for one in seen), "rows of requests that nobody made"
    for request_id, found in rows.items():
        assert len(found) == 1, found
        if one := answered.get(request_id):
            the_row_tells_what_happened(found[0], one, reached.get(request_id), may_be_lost=may_be_lost)


def the_row_tells_what_happened(
    row: dict[str, Any], one: Seen, truth: dict[str, Any] | None, *, may_be_lost: bool
) -> None:
    """`truth` is what the backend says of it, None when it never heard of it."""
    told = (row, one, truth)
    generated = truth["output_tokens"] if truth else 0
    assert row["output_tokens"] <= generated, told
    match row["outcome"]:
        case "denied":
            assert truth is None, told
            # The meter passes a refusal on; when it dies meanwhile, the caller hears of that instead.
            assert one.code in (row["code"], "unavailable"), told
        case "lost":
            # It stands at the progress that its meter had told last, which may be less than what was delivered.
            assert may_be_lost, told
        case "complete":
            assert truth, told
            assert (row["input_tokens"], row["output_tokens"]) == (truth["prompt_tokens"], generated), told
        case _:
            assert not one.whole, told
            assert one.frames <= row["output_tokens"], told


async def counters_are_right(books: Books, tenant: str) -> None:
    """Nothing is held, nothing waits, and what is used is what the ledger says."""
    tenant_id = await books.tenant_id(tenant)
    await books.settled(ROWS_TIMEOUT_S)
    found: list[Counters | None] = []

    async def equal() -> bool:
        found[:] = [await books.counters(tenant_id), await books.recorded(tenant_id)]
        return found[0] == found[1]

    await eventually_async(equal, retry_on=(StoreUnavailable,), failure=lambda: found)


@pytest.mark.parametrize("victim", ["authz-0", "meter-0", "control", "redis", "postgres", "envoy"])
async def test_a_process_killed_under_load_costs_no_row_and_leaves_nothing_held(trial: Trial, victim: str) -> None:
    (pid,) = trial.stack.pids(victim)

    async def replaced() -> bool:
        return bool(trial.stack.pids(victim)) and pid not in trial.stack.pids(victim)

    async with trial.load(victim, may_be_lost=victim in ON_THE_WAY):
        os.kill(pid, signal.SIGKILL)
        await eventually_async(replaced)


async def test_redis_losing_its_data_under_load_costs_no_row_and_no_count(trial: Trial) -> None:
    async with opened(trial.stack) as books, trial.load("flushall"):
        await books.redis.flushall()


async def test_while_redis_hangs_running_requests_finish_and_new_ones_are_told_503(trial: Trial) -> None:
    async with trial.load("hanging redis") as seen, client(trial.stack.url, "during") as session:
        with trial.stack.frozen("redis"):
            running = [one for one in seen if one.status == 200 and one.ask.leaves_after is None and not one.whole]

            async def finished() -> bool:
                return all(one.whole for one in running)

            new = Seen(Ask("/api/chat", trial.key))
            await send(session, new)
            assert (new.status, new.code) == (503, "unavailable")
            assert running
            await eventually_async(finished, failure=lambda: running)
        seen.append(new)


async def test_without_postgresql_verified_keys_go_on_until_the_backlog_is_full(
    upstream: Simulator, tmp_path: Path
) -> None:
    upstream.forget()
    here = ("--listen", f"127.0.0.1:{free_port()}", "--backend", f"sim={upstream.url}")
    with up(tmp_path / "state", *here, "--workers", "1", AUDIT_BUFFER_SIZE=str(ROOM), **SETTINGS) as stack:
        verified, unknown = stack.new_key("verified"), stack.new_key("unknown")
        seen: list[Seen] = []
        async with client(stack.url, "backlog") as session:

            async def ask(key: str) -> Seen:
                seen.append(Seen(Ask("/api/chat", key, words=2)))
                await send(session, seen[-1])
                return seen[-1]

            assert (await ask(verified)).whole
            with stack.frozen("postgres"):
                while (last := await ask(verified)).status == 200 and len(seen) < 2 * ROOM:
                    assert last.whole
                assert (last.status, last.code) == (503, "audit_backlog")
                stranger = await ask(unknown)
                assert (stranger.status, stranger.code) == (503, "unavailable")

            async def served_again() -> bool:
                return (await ask(unknown)).whole

            await eventually_async(served_again)
        async with opened(stack) as books:
            await every_request_has_one_row(books, upstream, "backlog", seen)
            await counters_are_right(books, "verified")
