"""A stack with three backends of different kinds.

In priority order: `twin` (two replicas, a bearer token), `safe` (TLS with a separate authority, a token in another
header) and `bare` (no token).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.certificates import self_signed
from tests.e2e.ledger_view import tenant_rows
from tests.e2e.stack import Simulator, Stack, simulator, up
from tests.ops.cli.conftest import Operator
from tests.polling import eventually
from tests.ports import free_port

MODEL = "llama3.2:latest"
"""The model that all backends host. Each backend also hosts a model with its own name, which no other one hosts."""

READ_TIMEOUT_S = 3
# Of conditions that send a request or run a command.
COSTLY_POLL_S = 0.1
CONNECTIONS_MAX = 4
_TWIN_TOKEN, _SAFE_TOKEN = "token-of-the-twins", "token-of-the-safe"
CREDENTIALS = {
    "twin": {"authorization": f"Bearer {_TWIN_TOKEN}"},
    "safe": {"x-api-key": _SAFE_TOKEN},
    "bare": {},
}
_CREDENTIAL_HEADERS = ("authorization", "x-api-key", "x-safe-token", "proxy-authorization", "cookie")


@dataclass(frozen=True)
class Attempt:
    """A request as it reached one backend."""

    backend: str
    record: dict[str, Any]


@dataclass
class BackendStack:
    """The running stack. `backends` maps the name of a backend to its replicas."""

    stack: Stack
    operator: Operator
    client: httpx.Client
    backends: dict[str, list[Simulator]]
    key: str

    @property
    def replicas(self) -> list[Simulator]:
        """All replicas, in the order of their backends."""
        return [replica for replicas in self.backends.values() for replica in replicas]

    def send(self, path: str = "/api/chat", *, stream: bool = False, model: str = MODEL) -> httpx.Response:
        """Sends one request through Envoy."""
        return self.client.post(path, json=request_body(path, stream, model), headers={"x-api-key": self.key})

    def attempts(self) -> dict[str, list[Attempt]]:
        """Request id -> all attempts that reached a running replica, in chronological order.

        Raises AssertionError if an attempt carried anything but the credential of its backend.
        """
        found: dict[str, list[Attempt]] = {}
        for backend, replicas in self.backends.items():
            running = (replica for replica in replicas if replica.process.poll() is None)
            for record in (record for replica in running for record in replica.requests()):
                sent = {name: value for name, value in record["headers"].items() if name in _CREDENTIAL_HEADERS}
                assert sent == CREDENTIALS[backend], f"{backend} was sent {sorted(sent)}"
                found.setdefault(record["headers"]["x-request-id"], []).append(Attempt(backend, record))
        for attempts in found.values():
            attempts.sort(key=lambda attempt: float(attempt.record["started_at"]))
        return found

    def restore(self) -> None:
        """Restores all replicas and gets an answer from each, which resets the count of failures before an ejection."""
        for replica in self.replicas:
            if replica.process.poll() is not None:
                replica.start()
            replica.behave()
            replica.clear_records()
        for backend, replicas in self.backends.items():
            for replica in replicas:
                before = len(replica.requests())
                eventually(
                    lambda: self.send(model=backend) and len(replica.requests()) > before,  # noqa: B023
                    60,
                    poll_s=COSTLY_POLL_S,
                    failure=f"{replica.url} of {backend} gets no request",
                )

    def rows(self, request_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Request id -> audit row, when all these requests have one. Raises AssertionError if one has two."""
        wanted = set(request_ids)

        def read() -> dict[str, dict[str, Any]] | None:
            rows = tenant_rows(self.stack, "matrix")
            by_id = {row["request_id"]: row for row in rows}
            assert len(by_id) == len(rows), "a request has two rows"
            return by_id if by_id.keys() >= wanted else None

        return eventually(read, 60, poll_s=COSTLY_POLL_S, failure="a request has no row")

    def used_once_settled(self) -> int:
        """Waits until no request is held. Returns the tokens used of the budget."""

        def budget() -> dict[str, Any]:
            (budget,) = self.operator.reads("show-usage", "--tenant", "matrix")["budgets"]
            return dict(budget)

        def settled() -> dict[str, Any] | None:
            return found if (found := budget())["reserved"] == 0 else None

        return int(eventually(settled, poll_s=COSTLY_POLL_S, failure=budget)["used"])


def request_body(path: str, stream: bool, model: str = MODEL) -> dict[str, Any]:
    """The body of a request for a short answer on the surface at `path`."""
    if path == "/v1/embeddings":
        return {"model": model, "input": "Hello"}
    body: dict[str, Any] = {"model": model, "stream": stream}
    if path == "/api/generate":
        return {**body, "prompt": "Hello", "options": {"num_predict": 8}}
    body["messages"] = [{"role": "user", "content": "Hello"}]
    return {**body, "options": {"num_predict": 8}} if path == "/api/chat" else {**body, "max_tokens": 8}


@contextmanager
def three_backends(directory: Path) -> Iterator[BackendStack]:
    """Starts the backends and the stack, with one worker per service, a key with high limits and a high budget."""
    with ExitStack() as stack:
        directory.joinpath("twin").write_text(_TWIN_TOKEN)
        directory.joinpath("safe").write_text(_SAFE_TOKEN)
        certificate = self_signed(directory, "127.0.0.1")
        trust = ssl.create_default_context(cafile=certificate.certificate)
        twin = ("--auth-token-file", str(directory / "twin"), "--models", f"{MODEL}+embedding,twin")
        safe = (
            "--auth-token-file",
            str(directory / "safe"),
            "--auth-header",
            "X-API-Key",
            "--models",
            f"{MODEL}+embedding,safe",
        )
        tls = ("--tls-cert", str(certificate.certificate), "--tls-key", str(certificate.key))
        backends = {
            "twin": [stack.enter_context(simulator(*twin)) for _ in range(2)],
            "safe": [stack.enter_context(simulator(*safe, *tls, trust=trust))],
            "bare": [stack.enter_context(simulator("--models", f"{MODEL}+embedding,bare"))],
        }
        first, second = (replica.url for replica in backends["twin"])
        settings = [
            {"name": "twin", "base_url": first, "replicas": [second], "auth_token": _TWIN_TOKEN},
            {
                "name": "safe",
                "base_url": backends["safe"][0].url,
                "auth_token": _SAFE_TOKEN,
                "auth_header": "X-API-Key",
                "ca_file": str(certificate.certificate),
            },
            {"name": "bare", "base_url": backends["bare"][0].url},
        ]
        running = stack.enter_context(
            up(
                directory / "state",
                "--workers",
                "1",
                "--listen",
                f"127.0.0.1:{free_port()}",
                OLLAMA_BACKENDS=json.dumps(settings),
                OLLAMA_READ_TIMEOUT_S=str(READ_TIMEOUT_S),
                OLLAMA_MAX_CONNECTIONS=str(CONNECTIONS_MAX),
                # Envoy chooses the replica: in a queue, one request at a time always gets the same one.
                QUEUE_MAX_WAIT_S="0",
                MODEL_DISCOVERY_REFRESH_S="1",
                DEFAULT_RPM="1000000",
                DEFAULT_TPM="1000000000",
                DEFAULT_CONCURRENT="1000",
                # The load of these tests must not time out on a busy machine.
                REDIS_TIMEOUT_S="3",
                DATABASE_TIMEOUT_S="10",
            )
        )
        # In this process: a new process for each query would take longer than all the requests.
        operator = Operator(Path(running.ready["env_file"]))
        operator.does("create-tenant", "--name", "matrix", "--allow-all-models")
        operator.does("set-budget", "--tenant", "matrix", "--total", "1000000000")
        key = operator.reads("create-key", "--tenant", "matrix", "--name", "k")["key"]
        with httpx.Client(base_url=running.url, timeout=60) as client:
            yield BackendStack(running, operator, client, backends, key)
