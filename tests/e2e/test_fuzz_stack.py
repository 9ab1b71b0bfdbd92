"""The running stack under unusual requests, disconnecting clients and failing backends; the ledger must stay right.

`make fuzz-stack` sends many more requests than the suite. FUZZ_REQUESTS is their number and FUZZ_SEED the random seed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.errors import MESSAGE, Code
from gateway.values import Period
from tests.e2e.fuzz_client import FuzzClient, PartialAnswer
from tests.e2e.fuzz_requests import RawRequest, RequestGenerator
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.stack import Simulator, Stack
from tests.e2e.surface_cases import THINKER

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
# Backends change their behaviour after each round. The ledger is checked after each epoch, when all is settled.
ROUND_REQUESTS = 125
EPOCH_REQUESTS = 16 * ROUND_REQUESTS
CLIENTS = 12
SETTLE_TIMEOUT_S = 60.0
TENANT = "fuzz"

# The errors that failing backends may cause. Any other status from 500 on is a defect. 501 is Ollama's own, for a kind
# of request that the model cannot answer.
DOCUMENTED_ERRORS = {
    (500, Code.BACKEND_ERROR),
    (501, Code.INVALID_REQUEST),
    (502, Code.BACKEND_ERROR),
    (503, Code.BACKEND_UNAVAILABLE),
    (503, Code.UNAVAILABLE),
    (503, Code.AUDIT_BACKLOG),
    (504, Code.BACKEND_TIMEOUT),
}
# Only authz returns these codes, and it writes a row for each. Other refusals come from Envoy or from both.
RECORDED_CODES = {
    Code.INVALID_API_KEY,
    Code.MODEL_NOT_ALLOWED,
    Code.SCOPE_DENIED,
    Code.RATE_LIMIT_EXCEEDED,
    Code.TOKEN_RATE_EXCEEDED,
    Code.CONCURRENCY_EXCEEDED,
    Code.BUDGET_EXHAUSTED,
    Code.BUDGET_RESERVED,
    Code.AUTH_THROTTLED,
}
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 503, "message": "not yet"},
    {"kind": "status", "status": 503, "times": 2},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 404, "message": "model 'x' not found"},
    {"kind": "status", "status": 429},
    {"kind": "reset"},
    {"kind": "reset", "after_frames": 0},
    {"kind": "reset", "after_frames": 3},
    {"kind": "close", "after_frames": 2},
    {"kind": "stall", "after_frames": 1},
    {"kind": "error"},
    {"kind": "error", "after_frames": 4},
    {"kind": "repeat_guard"},
    {"kind": "over_cap"},
    {"kind": "no_usage"},
)


def test_every_fuzzed_request_is_accounted_for(stack: Stack, ollama: Simulator, spare: Simulator) -> None:
    keys = [stack.new_key(TENANT)]
    keys += (
        stack.cli("create-key", "--tenant", TENANT, "--name", scopes, "--scopes", scopes)["key"]
        for scopes in ("chat", "chat,embeddings,runner,debug")
    )
    plenty = str(10**9)
    stack.cli("set-limits", "--tenant", TENANT, "--rpm", plenty, "--tpm", plenty, "--concurrent", "1000")
    # Without a budget there would be no counter to compare.
    stack.cli("set-budget", "--tenant", TENANT, "--total", str(10**12))
    asyncio.run(Fuzz(stack, {"sim": ollama, "spare": spare}, keys).run(REQUESTS))


class Fuzz:
    """One run: in each epoch it sends requests, waits until all are settled, and checks the ledger."""

    def __init__(self, stack: Stack, backends: dict[str, Simulator], keys: Sequence[str]) -> None:
        self._stack = stack
        self._backends = backends
        self._generator = RequestGenerator(SEED, keys)
        self._random = random.Random(SEED)  # noqa: S311 - nothing secret
        self._answer_counts: Counter[str] = Counter()
        self._compared = 0

    async def run(self, requests: int) -> None:
        """Sends `requests` requests. Raises AssertionError when a check fails."""
        pids, tracebacks, started = self._pids(), self._tracebacks(), time.monotonic()
        async with open_ledger_view(self._stack) as ledger_view:
            tenant_id = await ledger_view.tenant_id(TENANT)
            clients = [FuzzClient(self._stack.url, SEED + number) for number in range(CLIENTS)]
            for made in range(0, requests, EPOCH_REQUESTS):
                for backend in self._backends.values():
                    backend.clear_records()
                answers: list[PartialAnswer] = []
                for first in range(made, min(made + EPOCH_REQUESTS, requests), ROUND_REQUESTS):
                    self._misbehave()
                    round_requests = (
                        self._generator.next_request() for _ in range(min(ROUND_REQUESTS, requests - first))
                    )
                    received = await asyncio.gather(*(self._send_all(client, round_requests) for client in clients))
                    answers += itertools.chain(*received)
                await self._check(ledger_view, tenant_id, answers)
                assert self._pids() == pids
                assert self._tracebacks() == tracebacks
        # Enough requests succeeded for the comparisons to be meaningful.
        assert self._answer_counts["200"] > requests // 10
        assert self._compared > requests // 20
        rate = requests / (time.monotonic() - started)
        print(f"\n{requests} requests, {rate:.0f}/s; answers: {dict(sorted(self._answer_counts.items()))}")  # noqa: T201

    async def _send_all(self, client: FuzzClient, requests: Iterable[RawRequest]) -> list[PartialAnswer]:
        answers = [await client.send(request) for request in requests]
        await client.close()
        return [answer for answer in answers if answer is not None]

    def _misbehave(self) -> None:
        """Gives each backend up to three faults until the next round, each with a probability of one in ten."""
        for backend in self._backends.values():
            faults = [{**fault, "probability": 0.1} for fault in self._random.sample(FAULTS, self._random.randrange(4))]
            backend.behave(faults=faults, stall_s=0.2, tokens_per_s=self._random.choice((0, 0, 300)))

    async def _check(self, ledger_view: LedgerView, tenant_id: int, answers: list[PartialAnswer]) -> None:
        for answer in answers:
            self._answer_counts[f"{answer.status} {answer.headers.get('x-gateway-error', '')}".strip()] += 1
            check_answer(answer)
        await ledger_view.wait_until_settled(SETTLE_TIMEOUT_S)
        for backend in self._backends.values():
            backend.wait_until_idle()
        records_by_backend = {name: backend.requests() for name, backend in self._backends.items()}
        reached = {record["headers"]["x-request-id"] for records in records_by_backend.values() for record in records}
        ids = {answer.headers["x-request-id"]: must_have_row(answer) for answer in answers} | dict.fromkeys(
            reached, True
        )
        rows = await ledger_view.rows(ids)
        assert [request_id for request_id, found in rows.items() if len(found) != 1] == []
        unaccounted = [request_id for request_id, must in ids.items() if must and request_id not in rows]
        assert not unaccounted, [each for each in (*answers, *reached) if unaccounted[0] in str(each)]
        for name, records in records_by_backend.items():
            for record in records:
                self._compared += check_row(rows[record["headers"]["x-request-id"]][0], name, record)
        await self._check_counters(ledger_view, tenant_id)

    async def _check_counters(self, ledger_view: LedgerView, tenant_id: int) -> None:
        counters = await ledger_view.counters(tenant_id)
        assert counters is not None
        assert not any(counters.held.values())
        assert not any(counters.in_flight.values())
        rows = [row for row in await ledger_view.tenant_rows(tenant_id) if row["outcome"] != "denied"]
        assert counters.used.get((None, Period.TOTAL), 0) == sum(map(tokens_used, rows))
        # The reaper settles a request whose client disconnected between authz and the meter.
        assert all((row["status"], tokens_used(row)) == (503, 0) for row in rows if row["outcome"] == "lost")
        assert all(row["output_tokens"] <= row["reserved_tokens"] for row in rows)

    def _tracebacks(self) -> int:
        """The number of unhandled exceptions in the logs of our services."""
        logs = (self._stack.state_dir / "logs").glob("[amc]*.log*")
        return sum(path.read_text(errors="replace").count("Traceback") for path in logs)

    def _pids(self) -> dict[str, int]:
        pids: dict[str, int] = json.loads(self._stack.ready_file.read_text())["pids"]
        return pids


def check_answer(answer: PartialAnswer) -> None:
    """Checks that an answer is documented, has a request id, and does not name a server."""
    assert answer.headers.get("x-request-id"), answer
    assert "server" not in answer.headers
    code = answer.headers.get("x-gateway-error")
    assert (answer.status >= 400) == (code is not None), answer
    if answer.status >= 500:
        assert (answer.status, code) in DOCUMENTED_ERRORS, answer
    if code is not None and answer.complete and answer.body:
        assert json.loads(answer.body)["error"], answer


def must_have_row(answer: PartialAnswer) -> bool:
    """Whether authz decided about the request of this answer."""
    code = answer.headers.get("x-gateway-error")
    if "x-ratelimit-limit-requests" in answer.headers or code in RECORDED_CODES:
        return True
    # Envoy has one message for this code, and authz has several others.
    body = answer.body if answer.complete else b""
    return code == Code.INVALID_REQUEST and bool(body) and MESSAGE[Code.INVALID_REQUEST].encode() not in body


def tokens_used(row: dict[str, Any]) -> int:
    """The input and output tokens of a row."""
    tokens: int = row["input_tokens"] + row["output_tokens"]
    return tokens


def check_row(row: dict[str, Any], backend: str, record: dict[str, Any]) -> bool:
    """Checks a row against the record of its backend. Returns whether the token counts were compared.

    They are compared if the row is exact and the backend finished the answer without a fault.
    """
    assert row["tenant"] == TENANT
    assert record["ended_at"] is not None
    thinks_twice = record["model"] == THINKER and 'format"' in record["body"]
    faultless = record["finished"] == "complete" and record["status"] == 200 and not record["faults"]
    exact = (row["backend"], row["usage_source"], row["outcome"]) == (backend, "exact", "complete")
    if not exact or not faultless or thinks_twice:
        return False
    assert (row["input_tokens"], row["output_tokens"]) == (record["prompt_tokens"], record["output_tokens"]), row
    return True
