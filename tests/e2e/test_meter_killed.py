"""A meter that is killed loses no answer that its client has, and of a running stream at most the last second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import TRIAL_LEASE_S
from tests.e2e.ledger_view import Lease, LedgerView, open_ledger_view
from tests.e2e.load import CallResult, GenerationRequest, client, send
from tests.e2e.trial import PACE_TOKENS_PER_S, Trial, wait_until_served
from tests.polling import eventually_async

KILLS = 2
STREAMS = 4
# The admission sets the first lease of a stream. Enough renewals follow for one of them to be on time.
LEASES = 5
ROWS_TIMEOUT_S = TRIAL_LEASE_S + 30.0


@pytest.fixture(scope="module")
def key(trial: Trial) -> str:
    return trial.stack.new_key("acme")


@pytest.fixture
async def ledger_view(trial: Trial) -> AsyncIterator[LedgerView]:
    async with open_ledger_view(trial.stack) as view:
        yield view


async def wait_until_admitted(session: aiohttp.ClientSession, key: str) -> None:
    """Waits until a request has a complete answer."""

    async def served() -> bool:
        result = CallResult(GenerationRequest("/api/chat", key, words=1))
        await send(session, result)
        return result.complete

    await eventually_async(served)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_answer_that_its_client_has_is_complete_in_the_ledger(
    trial: Trial, ledger_view: LedgerView, key: str, path: str, stream: bool
) -> None:
    trial.upstream.behave(tokens_per_s=0)
    request = GenerationRequest(path, key, stream=stream, words=20)
    async with client(trial.stack.url, "complete") as session:
        await wait_until_admitted(session, key)
        async with session.post(path, json=request.body, headers=request.headers) as answer:
            assert answer.status == 200
            request_id = answer.headers["x-request-id"]
            async for line in answer.content:
                if not stream or line.strip() == b"data: [DONE]" or b'"done":true' in line:
                    await trial.kill("meter")
                    break
    (record,) = trial.upstream.requests(request_id)
    ((row,),) = (await ledger_view.wait_for_rows([request_id], ROWS_TIMEOUT_S)).values()
    assert (row["outcome"], row["usage_source"], row["input_tokens"], row["output_tokens"]) == (
        "complete",
        "exact",
        record["prompt_tokens"],
        record["output_tokens"],
    )


async def test_meters_killed_under_load_lose_no_answer_that_is_complete(trial: Trial) -> None:
    short = [replace(request, words=2) for request in trial.mix if request.disconnect_after_frames is None]
    trial.upstream.behave(tokens_per_s=0)
    async with replace(trial, mix=short).load("short", may_be_lost=True) as results:
        for number in range(KILLS):
            await trial.kill(f"meter-{number % 2}")
            await wait_until_served(results)


@dataclass
class Stream:
    """A stream as its client receives it, and the leases of its hold that Redis has had.

    Each lease has the number of tokens that the client had when Redis still had the lease before it.
    """

    request_id: str = ""
    delivered: int = 0
    leases: list[tuple[Lease, int]] = field(default_factory=list)
    delivered_at_last_poll: int = 0

    async def read(self, session: aiohttp.ClientSession, request: GenerationRequest) -> None:
        """Reads a native stream until it breaks."""
        with pytest.raises(aiohttp.ClientError):
            async with session.post(request.path, json=request.body, headers=request.headers) as answer:
                self.request_id = answer.headers["x-request-id"]
                async for line in answer.content:
                    frame: dict[str, Any] = json.loads(line)
                    self.delivered += bool(frame["message"]["content"])

    async def poll(self, ledger_view: LedgerView) -> None:
        """Notes the current lease if it is a new one."""
        delivered = self.delivered
        lease = await ledger_view.lease(self.request_id)
        if not self.leases or lease.deadline_ms > self.leases[-1][0].deadline_ms:
            self.leases.append((lease, self.delivered_at_last_poll))
        self.delivered_at_last_poll = delivered


async def test_a_stream_that_is_cut_loses_at_most_its_last_second(
    trial: Trial, ledger_view: LedgerView, key: str
) -> None:
    trial.upstream.behave(tokens_per_s=PACE_TOKENS_PER_S)
    streams = [Stream() for _ in range(STREAMS)]
    request = GenerationRequest("/api/chat", key, words=3000)
    async with client(trial.stack.url, "cut") as session:
        await wait_until_admitted(session, key)
        async with asyncio.TaskGroup() as readers:
            for stream in streams:
                readers.create_task(stream.read(session, request))
            await eventually_async(lambda: all(stream.delivered for stream in streams))

            async def renewed() -> bool:
                for stream in streams:
                    await stream.poll(ledger_view)
                return all(len(stream.leases) >= LEASES for stream in streams)

            await eventually_async(renewed)
            await trial.kill("meter")
    rows = await ledger_view.wait_for_rows([stream.request_id for stream in streams], ROWS_TIMEOUT_S)
    for stream in streams:
        (row,) = rows[stream.request_id]
        *_, (_, delivered_before), (last, _) = stream.leases
        assert row["outcome"] == "lost"
        # The meter took the progress for the last lease after the lease before it had begun.
        assert row["output_tokens"] >= last.output_tokens >= delivered_before > 0
        deadlines = [lease.deadline_ms for lease, _ in stream.leases[1:]]
        assert min(later - earlier for earlier, later in pairwise(deadlines)) < 1000 * TRIAL_LEASE_S / 3
