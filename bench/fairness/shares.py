"""Tenants that always wait: their tokens by weight, and how busy the slots are."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench.fairness.arithmetic import Span, busy_share, deviations, jain_index, most_at_once
from bench.fairness.callers import Callers, open_callers
from bench.fairness.plan import SLOTS, Plan, Scenario
from bench.fairness.stack import Ollama, Stack, Stores, open_stores, spans

# With weights 5:3:1:1:1, the callers of a tenant with weight 1 wait longer than the default of 30 s.
SETTINGS = {"QUEUE_MAX_WAIT_S": "300"}
# The points of a line of tokens over time.
_POINTS = 60
_RETRY_S = 0.5
Document = dict[str, Any]


async def measure(plan: Plan, stack: Stack, backends: Mapping[str, Ollama]) -> list[Document]:
    """Runs all scenarios at the same time, each with a separate backend. Returns one document for each."""
    async with open_stores(stack) as stores:
        runs = [_Run(plan, scenario, backends[scenario.name], stores) for scenario in plan.scenarios]
        for each in runs:
            await each.create_tenants()
        begin_s = time.time() + plan.warm_up_s
        sent = await asyncio.gather(*(each.load(stack.url, begin_s + plan.seconds) for each in runs))
        await stores.wait_until_idle()
        return [await each.document(count, begin_s) for each, count in zip(runs, sent, strict=True)]


class _Run:
    """One scenario."""

    def __init__(self, plan: Plan, scenario: Scenario, backend: Ollama, stores: Stores) -> None:
        self._plan = plan
        self._scenario = scenario
        self._backend = backend
        self._stores = stores
        self._name = f"fairness-{scenario.name}"
        self._keys: dict[str, str] = {}
        self._denied = 0

    async def create_tenants(self) -> None:
        """Creates the tenants of the scenario."""
        self._keys = await self._stores.create_tenants(self._name, self._scenario.weights)

    async def load(self, url: str, end_s: float) -> int:
        """Sends requests until `end_s`, when all callers disconnect. Returns the number of requests."""
        async with open_callers(url, self._name) as callers:
            work = [
                asyncio.create_task(self._send(callers, tenant, key, number))
                for tenant, key in self._keys.items()
                for number in range(self._plan.callers)
            ]
            ended, _ = await asyncio.wait(work, timeout=end_s - time.time(), return_when=asyncio.FIRST_EXCEPTION)
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for each in ended:
                each.result()
            return callers.sent

    async def _send(self, callers: Callers, tenant: str, key: str, number: int) -> None:
        lengths = random.Random(f"{tenant} {number}")  # noqa: S311 (nothing secret)
        while True:
            answer = await callers.chat(key, self._scenario.name, lengths.randint(*self._scenario.words[tenant]))
            if answer.status != 200:
                # On a busy machine a store may miss its deadline.
                self._denied += 1
                await asyncio.sleep(_RETRY_S)

    async def document(self, sent: int, begin_s: float) -> Document:
        """The tokens of the ledger within the measured time, and the slots by the records of the backend."""
        end_s = begin_s + self._plan.seconds
        rows = await self._stores.rows(self._name, sent)
        output = {tenant: _spans_of(rows, tenant, "output_tokens") for tenant in self._scenario.weights}
        used = {tenant: _spans_of(rows, tenant, "input_tokens", "output_tokens") for tenant in self._scenario.weights}
        weights = self._scenario.weights
        slots = spans(self._backend.records({row["request_id"] for row in rows}))
        tokens = {tenant: _within(each, begin_s, end_s) for tenant, each in used.items()}
        output_tokens = {tenant: _within(each, begin_s, end_s) for tenant, each in output.items()}
        times = [begin_s + self._plan.seconds * point / _POINTS for point in range(_POINTS + 1)]
        return {
            "name": self._scenario.name,
            "title": self._scenario.title,
            "seconds": self._plan.seconds,
            "weights": dict(weights),
            "requests": sent,
            "denied": self._denied,
            "rows": len(rows),
            "rows_per_request_max": max(Counter(row["request_id"] for row in rows).values()),
            "tokens": tokens,
            "output_tokens": output_tokens,
            "deviations": deviations(tokens, weights),
            "output_deviations": deviations(output_tokens, weights),
            "jain": jain_index(tokens[tenant] / weight for tenant, weight in weights.items()),
            "busy_share": busy_share(slots, SLOTS, begin_s, end_s),
            "most_at_once": most_at_once(slots),
            "seconds_at": [at - begin_s for at in times],
            "output_tokens_at": {
                tenant: [_within(each, begin_s, at) for at in times] for tenant, each in output.items()
            },
        }


def _spans_of(rows: list[Document], tenant: str, *columns: str) -> list[Span]:
    """The requests of a tenant that ran, with their tokens."""
    return [
        Span(row["ts_s"], row["ts_s"] + row["duration_ms"] / 1000, sum(row[column] for column in columns))
        for row in rows
        if row["tenant"] == tenant and row["output_tokens"]
    ]


def _within(listed: list[Span], begin_s: float, end_s: float) -> float:
    return sum(each.tokens_within(begin_s, end_s) for each in listed)
