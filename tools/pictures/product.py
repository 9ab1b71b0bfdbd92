"""A running gateway with tenants, keys and traffic, for pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 30.0
_TOKENS_PER_S = "60"


@dataclass(frozen=True, slots=True)
class Product:
    """A gateway started by `up --playground`.

    `url` is its base URL, `key` a key of the tenant acme, and `env` the environment of commands for this gateway.
    """

    url: str
    key: str
    home: Path
    env: Mapping[str, str]


@contextmanager
def start_product(
    home: Path, settings: Mapping[str, str] | None = None, ollama_options: Sequence[str] = ()
) -> Iterator[Product]:
    """Starts a simulated Ollama and a gateway whose state is in `home`, and ends both with the context.

    `settings` are settings of the gateway, and `ollama_options` further options of `python -m ops.simulator`.
    """
    env = {"HOME": str(home), "XDG_STATE_HOME": "", "GATEWAY_ENV_FILE": "", **(settings or {})}
    simulator = [sys.executable, "-m", "ops.simulator", "--listen", "127.0.0.1:0", "--tokens-per-s", _TOKENS_PER_S]
    simulator += ollama_options
    with subprocess.Popen(simulator, stdout=subprocess.PIPE, text=True) as ollama:  # noqa: S603
        try:
            backend = "" if ollama.stdout is None else ollama.stdout.readline().strip()
            options = ("--ready-file", str(home / "ready"), "--workers", "1", "--listen", "127.0.0.1:0")
            arguments = ("up", *options, "--backend", f"home={backend}", "--playground")
            with subprocess.Popen(cli(*arguments), stdout=subprocess.DEVNULL, env=_merged(env)) as gateway:  # noqa: S603
                try:
                    ready = _wait_until_ready(home / "ready", gateway)
                    env["GATEWAY_ENV_FILE"] = ready["env_file"]
                    yield Product(ready["url"], _fill(ready["url"], env), home, env)
                finally:
                    gateway.terminate()
                    gateway.wait(timeout=_STOP_TIMEOUT_S)
        finally:
            ollama.terminate()


def cli(*arguments: str) -> list[str]:
    """The command line of an operator command."""
    return [sys.executable, "-m", "ops.cli", *arguments]


def run_command(env: Mapping[str, str], *arguments: str) -> Any:
    """Runs an operator command for the gateway of `env`. Returns the document that it prints with `--json`."""
    command = cli(*arguments, "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_merged(env))  # noqa: S603
    return json.loads(done.stdout)


def _fill(url: str, env: Mapping[str, str]) -> str:
    """Creates two tenants and three keys, and sends requests, one of which is denied. Returns the first key."""

    def operate(*arguments: str) -> Any:
        return run_command(env, *arguments)

    operate("create-tenant", "--name", "acme", "--allow-all-models")
    operate("create-tenant", "--name", "research", "--preset", "agents", "--models", "llama3.2,nomic-embed-text")
    operate("set-budget", "--tenant", "acme", "--daily", "20000", "--monthly", "1000000")
    laptop = str(operate("create-key", "--tenant", "acme", "--name", "laptop")["key"])
    operate("create-key", "--tenant", "acme", "--name", "ci", "--scopes", "chat", "--expires", "30d")
    agent = str(operate("create-key", "--tenant", "research", "--name", "codex", "--priority", "batch")["key"])
    chat = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 40}
    requests = [
        (laptop, "/v1/chat/completions", {"model": "qwen3:8b", **chat}),
        (laptop, "/v1/chat/completions", {"model": "llama3.2", **chat}),
        (laptop, "/api/embed", {"model": "nomic-embed-text", "input": "How a river finds the sea"}),
        (agent, "/v1/messages", {"model": "llama3.2", **chat}),
        (agent, "/v1/chat/completions", {"model": "qwen3:8b", **chat}),
    ]
    with httpx.Client(base_url=url, timeout=_REQUEST_TIMEOUT_S, trust_env=False) as client:
        for key, path, body in requests:
            client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    return laptop


def _merged(env: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **env}


def _wait_until_ready(file: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the gateway did not start")
        time.sleep(0.1)
    ready: dict[str, Any] = json.loads(file.read_text())
    return ready
