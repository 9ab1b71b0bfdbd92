"""A stack over three backends, one of each kind, in this order: `twin` (two replicas, a bearer token), `safe` (TLS with
an authority of its own, a token in another header) and `bare` (no token)."""

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
from tests.e2e.stack import Simulator, Stack, simulator, up
from tests.ops.cli.conftest import Operator
from tests.polling import eventually
from tests.ports import free_port

MODEL = "llama3.2:latest"
"""On all of them. Each backend also has a model that is named after it and is nowhere else."""

READ_TIMEOUT_S = 3
CONNECTIONS_MAX = 4
_TWIN_TOKEN, _SAFE_TOKEN = "token-of-the-twins", "token-of-the-safe"
CREDENTIALS = {
    "twin": {"authorization": f"Bearer {_TWIN_TOKEN}"},
    "safe": {"x-api-key": _SAFE_TOKEN},
    "bare": {},
}
_OF_CREDENTIALS = ("authorization", "x-api-key", "x-safe-token", "proxy-authorization", "cookie")


@dataclass(frozen=True)
class CheckedRequest:
    """One time that a backend heard of a request."""

    backend: str
    record: dict[str, Any]


@dataclass
class Site:
    """The running stack and its backends: name -> replicas."""

    stack: Stack
    operator: Operator
    client: httpx.Client
    backends: dict[str, list[Simulator]]
    key: str

    @property
    def replicas(self) -> list[Simulator]:
        """All simulated servers, in the order of their backends."""
        return [replica for replicas in self.backends.values() for replica in replicas]

    def ask(self, path: str = "/api/chat", *, stream: bool = False, model: str = MODEL) -> httpx.Response:
        """One request, through Envoy."""
        return self.client.post(path, json=body_of(path, stream, model), headers={"x-api-key": self.key})

    def heard(self) -> dict[str, list[CheckedRequest]]:
        """Request id -> every attempt that reached a running replica, in order of time.

        Each must have carried its backend's credential alone.
        """
        found: dict[str, list[CheckedRequest]] = {}
        for backend, replicas in self.backends.items():
            running = (replica for replica in replicas if replica.process.poll() is None)
            for record in (record for replica in running for record in replica.requests()):
                sent = {name: value for name, value in record["headers"].items() if name in _OF_CREDENTIALS}
                assert sent == CREDENTIALS[backend], f"{backend} was sent {sorted(sent)}"
                found.setdefault(record["headers"]["x-request-id"], []).append(CheckedRequest(backend, record))
        for attempts in found.values():
            attempts.sort(key=lambda attempt: float(attempt.record["started_at"]))
        return found

    def heal(self) -> None:
        """Everything works again: each replica has answered once more, so that nobody is close to being ejected."""
        for replica in self.replicas:
            if replica.process.poll() is not None:
                replica.start()
            replica.behave()
        for backend, replicas in self.backends.items():
            for replica in replicas:
                before = len(replica.requests())
                eventually(lambda: self.ask(model=backend) and len(replica.requests()) > before, 60)  # noqa: B023

    def rows(self, request_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Request id -> audit row, once these requests have theirs. There is never more than one."""
        wanted = set(request_ids)

        def read() -> dict[str, dict[str, Any]] | None:
            rows = self.operator.reads("show-audit", "--tenant", "matrix", "--limit", "10000")
            by_id = {row["request_id"]: row for row in rows}
            assert len(by_id) == len(rows), "a request has two rows"
            return by_id if by_id.keys() >= wanted else None

        return eventually(read, 60)

    def nothing_is_held(self) -> int:
        """Waits until no hold is left of any request. Returns what was used of the budget."""

        def budget() -> dict[str, Any]:
            (budget,) = self.operator.reads("show-usage", "--tenant", "matrix")["budgets"]
            return dict(budget)

        return int(eventually(lambda: found if (found := budget())["reserved"] == 0 else None)["used"])


def body_of(path: str, stream: bool, model: str = MODEL) -> dict[str, Any]:
    """A request of that surface for a short answer."""
    if path == "/v1/embeddings":
        return {"model": model, "input": "Hello"}
    body: dict[str, Any] = {"model": model, "stream": stream}
    if path == "/api/generate":
        return {**body, "prompt": "Hello", "options": {"num_predict": 8}}
    body["messages"] = [{"role": "user", "content": "Hello"}]
    return {**body, "options": {"num_predict": 8}} if path == "/api/chat" else {**body, "max_tokens": 8}


@contextmanager
def three_backends(directory: Path) -> Iterator[Site]:
    """Starts everything; one worker of each service, a key without limits that matter, and a budget to watch."""
    with ExitStack() as stack:
        directory.joinpath("twin").write_text(_TWIN_TOKEN)
        directory.joinpath("safe").write_text(_SAFE_TOKEN)
        certificate = self_signed(directory, "127.0.0.1")
        trust = ssl.create_default_context(cafile=certificate.certificate)
        twin = ("--auth-token-file", str(directory / "twin"), "--models", f"{MODEL},twin")
        safe = ("--auth-token-file", str(directory / "safe"), "--auth-header", "X-API-Key", "--models", f"{MODEL},safe")
        tls = ("--tls-cert", str(certificate.certificate), "--tls-key", str(certificate.key))
        backends = {
            "twin": [stack.enter_context(simulator(*twin)) for _ in range(2)],
            "safe": [stack.enter_context(simulator(*safe, *tls, trust=trust))],
            "bare": [stack.enter_context(simulator("--models", f"{MODEL},bare"))],
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
                MODEL_DISCOVERY_REFRESH_S="1",
                DEFAULT_RPM="1000000",
                DEFAULT_TPM="1000000000",
                DEFAULT_CONCURRENT="1000",
                AUDIT_BUFFER_SIZE="10000",
                # So much at once is no reason to be refused by a busy machine.
                REDIS_TIMEOUT_S="3",
                DATABASE_TIMEOUT_S="10",
            )
        )
        # In this process: a program of its own for each look would take longer than all the requests.
        operator = Operator(Path(running.ready["env_file"]))
        operator.does("create-tenant", "--name", "matrix", "--allow-all-models")
        operator.does("set-budget", "--tenant", "matrix", "--total", "1000000000")
        key = operator.reads("create-key", "--tenant", "matrix", "--name", "k")["key"]
        with httpx.Client(base_url=running.url, timeout=60) as client:
            yield Site(running, operator, client, backends, key)
