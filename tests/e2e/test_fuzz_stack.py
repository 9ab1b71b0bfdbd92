"""The whole running stack under odd requests, leaving callers and failing backends: afterwards the books are right.

`make fuzz-stack` makes many more requests than the suite; FUZZ_REQUESTS says how many, FUZZ_SEED where they begin.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gateway.errors import MESSAGE, Code
from gateway.values import Period
from tests.e2e.fuzz_client import Reply, Shooter
from tests.e2e.fuzz_requests import Gun
from tests.e2e.ledger_view import Books, opened
from tests.e2e.stack import Simulator, Stack
from tests.e2e.surface_cases import THINKER

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1500"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
# The backends change their behaviour after each round; the books are looked at after each epoch, when all is quiet.
ROUND = 125
EPOCH = 16 * ROUND
CALLERS = 12
SETTLE_TIMEOUT_S = 60.0
TENANT = "fuzz"

# The failures that a backend's trouble may show a caller; anything else from 500 on is a defect.
DOCUMENTED = {
    (500, Code.BACKEND_ERROR),
    (502, Code.BACKEND_ERROR),
    (503, Code.BACKEND_UNAVAILABLE),
    (503, Code.UNAVAILABLE),
    (503, Code.AUDIT_BACKLOG),
    (504, Code.BACKEND_TIMEOUT),
}
# What only authz says, and with a row. Other refusals come from Envoy itself, or from either.
WITH_ROW = {
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
    {"kind": "status", "status": 503},
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


def test_after_any_requests_every_one_is_accounted_for(stack: Stack, ollama: Simulator, spare: Simulator) -> None:
    keys = [stack.new_key(TENANT)]
    keys += (
        stack.cli("create-key", "--tenant", TENANT, "--name", scopes, "--scopes", scopes)["key"]
        for scopes in ("chat", "chat,embeddings,runner,debug")
    )
    plenty = str(10**9)
    stack.cli("set-limits", "--tenant", TENANT, "--rpm", plenty, "--tpm", plenty, "--concurrent", "1000")
    # So that there are counters to compare.
    stack.cli("set-budget", "--tenant", TENANT, "--total", str(10**12))
    asyncio.run(Fuzz(stack, {"sim": ollama, "spare": spare}, keys).run(REQUESTS))


class Fuzz:
    """One run: shots, then peace, then the books, and again."""

    def __init__(self, stack: Stack, backends: dict[str, Simulator], keys: Sequence[str]) -> None:
        self._stack = stack
        self._backends = backends
        self._gun = Gun(SEED, keys)
        self._dice = random.Random(SEED)  # noqa: S311 - nothing secret
        self._said: Counter[str] = Counter()
        self._compared = 0

    async def run(self, requests: int) -> None:
        """Makes so many requests. Raises AssertionError."""
        pids, logged, began = self._pids(), self._tracebacks(), time.monotonic()
        async with opened(self._stack) as books:
            tenant_id = await books.tenant_id(TENANT)
            shooters = [Shooter(self._stack.url, SEED + number) for number in range(CALLERS)]
            for made in range(0, requests, EPOCH):
                for backend in self._backends.values():
                    backend.forget()
                replies: list[Reply] = []
                for begun in range(made, min(made + EPOCH, requests), ROUND):
                    self._misbehave()
                    shots = (self._gun.shot() for _ in range(min(ROUND, requests - begun)))
                    shot = await asyncio.gather(*(self._shoot_all(shooter, shots) for shooter in shooters))
                    replies += itertools.chain(*shot)
                await self._check(books, tenant_id, replies)
                assert self._pids() == pids
                assert self._tracebacks() == logged
        # Enough of them went well for the rest to mean something.
        assert self._said["200"] > requests // 10
        assert self._compared > requests // 20
        rate = requests / (time.monotonic() - began)
        print(f"\n{requests} requests, {rate:.0f}/s; answers: {dict(sorted(self._said.items()))}")  # noqa: T201

    async def _shoot_all(self, shooter: Shooter, shots: Any) -> list[Reply]:
        replies = [await shooter.shoot(shot) for shot in shots]
        await shooter.close()
        return [reply for reply in replies if reply is not None]

    def _misbehave(self) -> None:
        """Each backend fails in some ways, one request in ten for each of them, until the next round."""
        for backend in self._backends.values():
            faults = [{**fault, "probability": 0.1} for fault in self._dice.sample(FAULTS, self._dice.randrange(4))]
            backend.behave(faults=faults, stall_s=0.2, tokens_per_s=self._dice.choice((0, 0, 300)))

    async def _check(self, books: Books, tenant_id: int, replies: list[Reply]) -> None:
        for reply in replies:
            self._said[f"{reply.status} {reply.headers.get('x-gateway-error', '')}".strip()] += 1
            check_reply(reply)
        await books.settled(SETTLE_TIMEOUT_S)
        for backend in self._backends.values():
            backend.idle()
        seen = {name: backend.requests() for name, backend in self._backends.items()}
        asked = {record["headers"]["x-request-id"] for records in seen.values() for record in records}
        ids = {reply.headers["x-request-id"]: must_have_row(reply) for reply in replies} | dict.fromkeys(asked, True)
        rows = await books.rows(ids)
        assert [request_id for request_id, found in rows.items() if len(found) != 1] == []
        unaccounted = [request_id for request_id, must in ids.items() if must and request_id not in rows]
        assert not unaccounted, [each for each in (*replies, *asked) if unaccounted[0] in str(each)]
        for name, records in seen.items():
            for record in records:
                self._compared += check_row(rows[record["headers"]["x-request-id"]][0], name, record)
        await self._check_counters(books, tenant_id)

    async def _check_counters(self, books: Books, tenant_id: int) -> None:
        counters = await books.counters(tenant_id)
        assert counters is not None
        assert not any(counters.held.values())
        assert not any(counters.in_flight.values())
        rows = [row for row in await books.tenant_rows(tenant_id) if row["outcome"] != "denied"]
        assert counters.used.get((None, Period.TOTAL), 0) == sum(map(spent_on, rows))
        # One whose caller left between authz and the meter is settled by the reaper.
        assert all((row["status"], spent_on(row)) == (503, 0) for row in rows if row["outcome"] == "lost")
        assert all(row["output_tokens"] <= row["reserved_tokens"] for row in rows)

    def _tracebacks(self) -> int:
        """How many exceptions nobody had thought of stand in the logs of our services."""
        logs = (self._stack.state_dir / "logs").glob("[amc]*.log*")
        return sum(path.read_text(errors="replace").count("Traceback") for path in logs)

    def _pids(self) -> dict[str, int]:
        pids: dict[str, int] = json.loads(self._stack.ready_file.read_text())["pids"]
        return pids


def check_reply(reply: Reply) -> None:
    """An answer that is documented, with an id, without a name of a server or of a backend's header."""
    assert reply.headers.get("x-request-id"), reply
    assert "server" not in reply.headers
    code = reply.headers.get("x-gateway-error")
    assert (reply.status >= 400) == (code is not None), reply
    if reply.status >= 500:
        assert (reply.status, code) in DOCUMENTED, reply
    if code is not None and reply.whole and reply.body:
        assert json.loads(reply.body)["error"], reply


def must_have_row(reply: Reply) -> bool:
    """Whether this was an answer to a request that authz decided about."""
    code = reply.headers.get("x-gateway-error")
    if "x-ratelimit-limit-requests" in reply.headers or code in WITH_ROW:
        return True
    # Envoy has one sentence for this code, and authz many others.
    body = reply.body if reply.whole else b""
    return code == Code.INVALID_REQUEST and bool(body) and MESSAGE[Code.INVALID_REQUEST].encode() not in body


def spent_on(row: dict[str, Any]) -> int:
    """Tokens of a row."""
    tokens: int = row["input_tokens"] + row["output_tokens"]
    return tokens


def check_row(row: dict[str, Any], backend: str, record: dict[str, Any]) -> bool:
    """A row with exact figures says what the backend counted, where that one finished the answer undisturbed; whether
    this is such a row."""
    assert row["tenant"] == TENANT
    assert record["ended_at"] is not None
    thinks_twice = record["model"] == THINKER and 'format"' in record["body"]
    undisturbed = record["finished"] == "complete" and record["status"] == 200 and not record["faults"]
    exact = (row["backend"], row["usage_source"], row["outcome"]) == (backend, "exact", "complete")
    if not exact or not undisturbed or thinks_twice:
        return False
    assert (row["input_tokens"], row["output_tokens"]) == (record["prompt_tokens"], record["output_tokens"]), row
    return True
