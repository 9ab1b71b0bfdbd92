"""Processes that are killed or suspended under load: each request has one row, no hold remains, counters are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.load import CallResult, GenerationRequest, client, send
from tests.e2e.stack import Simulator, backends, up
from tests.e2e.trial import PACE_TOKENS_PER_S, SETTINGS, Trial, check_counters, check_rows
from tests.polling import eventually_async
from tests.ports import free_port

# These processes serve requests. If one of them is killed, the reaper settles its requests as lost.
ON_REQUEST_PATH = ("authz-0", "meter-0", "envoy")
AUDIT_BUFFER_SIZE = 20


@pytest.fixture(autouse=True)
def upstream(trial: Trial) -> Simulator:
    """The backend. It takes time to answer, so that requests run when a fault happens."""
    trial.upstream.behave(tokens_per_s=PACE_TOKENS_PER_S)
    return trial.upstream


@pytest.mark.parametrize("victim", ["authz-0", "meter-0", "control", "redis", "postgres", "envoy"])
async def test_a_process_killed_under_load_loses_no_row_and_leaves_no_hold(trial: Trial, victim: str) -> None:
    async with trial.load(victim, may_be_lost=victim in ON_REQUEST_PATH):
        await trial.kill(victim)


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
    here = ("--listen", f"127.0.0.1:{free_port()}")
    settings = {**SETTINGS, **backends(sim=upstream.url), "AUDIT_BUFFER_SIZE": str(AUDIT_BUFFER_SIZE)}
    with up(tmp_path / "state", *here, "--workers", "1", **settings) as stack:
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
