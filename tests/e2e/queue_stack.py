"""A stack with two workers per service, whose only backend has one slot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.embedded.state import open_state
from tests.e2e.stack import Simulator, Stack, set_env, simulator, up
from tests.ports import free_port

PACE_TOKENS_PER_S = 100
MAX_WAIT_S = 8
MAX_PER_TENANT = 6
SETTINGS = {
    "MODEL_DISCOVERY_REFRESH_S": "1",
    # How long the slot of a killed worker is lost.
    "HOLD_LEASE_S": "5",
    "QUEUE_MAX_WAIT_S": str(MAX_WAIT_S),
    "QUEUE_MAX_PER_TENANT": str(MAX_PER_TENANT),
    "DEFAULT_RPM": "10000",
    "DEFAULT_TPM": "10000000",
    "DEFAULT_CONCURRENT": "50",
    "MAX_NUM_PREDICT": "100000",
    # A busy machine must not fail a request.
    "REDIS_TIMEOUT_S": "3",
    "DATABASE_TIMEOUT_S": "10",
}


@dataclass(frozen=True)
class QueueStack:
    """The running stack and its backend."""

    stack: Stack
    backend: Simulator

    def add_backends(self, *added: dict[str, Any]) -> None:
        """Adds backends after the first one. Control applies the change within a second."""
        first = {"name": "sim", "base_url": self.backend.url, "slots": 1}
        set_env(self.stack.state_dir, OLLAMA_BACKENDS=json.dumps([first, *added]))


@contextmanager
def queue_stack(directory: Path) -> Iterator[QueueStack]:
    """Runs the stack."""
    state_dir = directory / "state"
    with open_state(state_dir) as state:
        state.env_file.touch(mode=0o600)
    with simulator("--tokens-per-s", str(PACE_TOKENS_PER_S)) as backend:
        backends = [{"name": "sim", "base_url": backend.url, "slots": 1}]
        set_env(state_dir, OLLAMA_BACKENDS=json.dumps(backends), **SETTINGS)
        with up(state_dir, "--listen", f"127.0.0.1:{free_port()}", "--workers", "2") as stack:
            yield QueueStack(stack, backend)
