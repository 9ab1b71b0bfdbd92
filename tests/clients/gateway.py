"""The gateway that the clients call: `neuronetz-gateway up` in front of one simulated Ollama, with two tenants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.settings import CONTEXT_TOKENS
from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.stack import Simulator, Stack, backends, simulator, up
from tests.ports import free_port

UNKNOWN_KEY = "nz_" + "a" * 42


@dataclass(frozen=True)
class Gateway:
    """A running gateway. `key` may do everything; the budget of `spent_key` is too small for any request.

    `unknown_key` has the form of a key and belongs to no tenant.
    """

    stack: Stack
    ollama: Simulator
    key: str
    spent_key: str
    unknown_key: str = UNKNOWN_KEY

    @classmethod
    def of(cls, stack: Stack, ollama: Simulator) -> Gateway:
        """Creates the tenants of the cases in a running stack."""
        keys = []
        for tenant in ("clients-served", "clients-spent"):
            stack.cli("create-tenant", "--name", tenant, "--preset", "agents", "--rpm", "10000", "--allow-all-models")
            if tenant == "clients-spent":
                stack.cli("set-budget", "--tenant", tenant, "--total", "1")
            keys.append(stack.cli("create-key", "--tenant", tenant, "--name", "k")["key"])
        return cls(stack, ollama, *keys)

    async def disagreements(self) -> list[str]:
        """How the audit rows differ from what the simulated Ollama did since its records were cleared."""
        records = self.ollama.requests()
        by_id = {record["headers"].get("x-request-id", ""): record for record in records}
        async with open_ledger_view(self.stack) as ledger_view:
            rows = await ledger_view.wait_for_rows(by_id.keys())
        found = [_disagreement(record, rows.get(request_id, [])) for request_id, record in by_id.items()]
        return [each for each in found if each]


def _disagreement(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if len(rows) != 1:
        return f"{record['path']} has {len(rows)} audit rows"
    seen, row = record["finished"], rows[0]
    outcome = {"complete": "complete", "cancelled": "client_gone", "failed": "upstream_error"}.get(seen)
    if row["outcome"] != outcome:
        return f"{record['path']}: the backend's request was {seen}, the row is {row['outcome']}"
    counts = (row["input_tokens"], row["output_tokens"])
    if seen == "complete" and counts != (record["prompt_tokens"], record["output_tokens"]):
        return f"{record['path']}: {counts} tokens were counted"
    return ""


@contextmanager
def running_gateway(directory: Path) -> Iterator[Gateway]:
    """Runs a gateway until the context ends. Its state is below `directory`."""
    with simulator("--context-length", str(CONTEXT_TOKENS)) as ollama:
        listen = f"127.0.0.1:{free_port()}"
        settings = {
            **backends(sim=ollama.url),
            "DEFAULT_RPM": "10000",
            "AUTH_FAILURE_RATE_LIMIT_PER_IP_PER_MIN": "1000",
        }
        with up(directory / "state", "--listen", listen, "--workers", "1", **settings) as stack:
            yield Gateway.of(stack, ollama)
