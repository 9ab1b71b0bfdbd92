"""Requests of many callers that wait in the queue of a running stack, and what queue and ledger have of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import aiohttp

from bench.fairness.arithmetic import Span
from bench.fairness.arithmetic import most_at_once as most_spans_at_once
from gateway.errors import StoreUnavailable
from gateway.queue.port import QueueRules, QueueStatus
from gateway.queue.redis.queue import RedisQueue
from tests.e2e.ledger_view import STORE_TIMEOUT_S, LedgerView
from tests.e2e.load import MODEL, CallResult, GenerationRequest, send
from tests.polling import eventually_async

SERVED, REFUSED, BROKEN = "served", "503", "broken"
# Leases must expire, and stores may have to recover.
TIMEOUT_S = 90.0
Record = Mapping[str, Any]


class Crowd:
    """Requests with `keys` in turn."""

    def __init__(self, session: aiohttp.ClientSession, keys: Sequence[str]) -> None:
        self._session = session
        self._keys = keys
        self.requests: dict[asyncio.Task[None], CallResult] = {}

    def send(self, words: int, model: str = MODEL) -> asyncio.Task[None]:
        """Sends a request with the next key, for an answer of `words` words."""
        key = self._keys[len(self.requests) % len(self._keys)]
        result = CallResult(GenerationRequest("/api/chat", key, words=words, model=model))
        task = asyncio.create_task(send(self._session, result))
        self.requests[task] = result
        return task

    def results(self, tasks: Iterable[asyncio.Task[None]]) -> list[CallResult]:
        """The results of these requests."""
        return [self.requests[task] for task in tasks]

    def open(self, model: str) -> list[asyncio.Task[None]]:
        """The requests for this model that have not ended for their callers."""
        return [task for task, result in self.requests.items() if result.request.model == model and not task.done()]

    async def wait(self) -> None:
        """Waits until each request has ended for its caller."""
        await asyncio.gather(*self.requests, return_exceptions=True)


class QueueView:
    """The state of the queue of a running stack, as Redis has it now."""

    def __init__(self, ledger_view: LedgerView) -> None:
        self._queue = RedisQueue(ledger_view.redis, STORE_TIMEOUT_S, QueueRules())

    async def status(self) -> QueueStatus:
        """The present state. Raises StoreUnavailable."""
        return await self._queue.status()

    async def wait_for(self, reached: Callable[[QueueStatus], bool], failure: str, poll_s: float = 0.02) -> None:
        """Waits until the state is as `reached` returns. Raises AssertionError with `failure` and the last state."""
        last: list[QueueStatus] = []

        async def is_reached() -> bool:
            last[:] = [await self.status()]
            return reached(last[0])

        await eventually_async(
            is_reached, TIMEOUT_S, poll_s=poll_s, retry_on=(StoreUnavailable,), failure=lambda: f"{failure}: {last}"
        )

    async def wait_until_idle(self) -> None:
        """Waits until no request waits and each slot is free."""
        await self.wait_for(lambda status: not status.tickets and not all_running(status), "a slot or ticket remained")


def all_running(status: QueueStatus) -> int:
    """The number of slots in use."""
    return sum(each.running for each in status.replicas.values())


def running_at(status: QueueStatus, replica: str) -> int:
    """The number of slots of a replica in use."""
    return status.replicas[replica].running if replica in status.replicas else 0


def waiting_for(status: QueueStatus, *replicas: str) -> int:
    """The number of tickets that wait for exactly these replicas."""
    return sum(each.replicas == replicas for each in status.tickets)


def end_of(result: CallResult) -> str:
    """How a request ended for its caller."""
    if result.complete:
        return SERVED
    return REFUSED if result.status == 503 else BROKEN


async def check_rows(ledger_view: LedgerView, user_agent: str, results: Sequence[CallResult]) -> set[str]:
    """Waits until each of these requests, which are all with this user agent, has a row. Returns the request ids.

    Raises AssertionError if one has two.
    """
    ids: set[str] = set()

    async def all_recorded() -> bool:
        ids.clear()
        ids.update(await ledger_view.request_ids(user_agent))
        return len(ids) >= len(results)

    await eventually_async(
        all_recorded,
        TIMEOUT_S,
        retry_on=(StoreUnavailable,),
        failure=lambda: f"{len(ids)} of {len(results)} have a row",
    )
    rows = await ledger_view.rows(ids)
    assert {len(found) for found in rows.values()} == {1}
    assert len(rows) == len(results)
    assert {result.request_id for result in results if result.request_id} <= rows.keys()
    return set(rows)


def ids_of(records: Iterable[Record]) -> list[str]:
    """The request id of each record of a simulated Ollama."""
    return [record["headers"]["x-request-id"] for record in records]


def check_runs(records: Iterable[Record]) -> None:
    """Checks that no backend has generated more than one answer for a request."""
    answered = Counter(ids_of(record for record in records if record["finished"] == "complete"))
    assert set(answered.values()) <= {1}, answered


def most_at_once(records: Iterable[Record]) -> int:
    """The largest number of these requests that their replica had at the same time, including its own line."""
    return most_spans_at_once(Span(record["started_at"], record["ended_at"]) for record in records)
