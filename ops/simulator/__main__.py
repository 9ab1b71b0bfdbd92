"""`python -m ops.simulator`: serves a simulated Ollama until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from pydantic import SecretStr

from ops.simulator.access import Auth
from ops.simulator.app import SimulatorOptions, serve
from ops.simulator.control.behaviour import Behaviour
from ops.simulator.models.library import MODELS

_BEHAVIOUR = (
    "tokens_per_s", "prefill_tokens_per_s", "load_s", "num_parallel", "max_queue", "max_loaded_models",
    "context_length", "seed",
)  # fmt: skip


def read_options(arguments: list[str] | None = None) -> SimulatorOptions:
    """The options of a command line. Invalid ones end the program with a usage message."""
    parser = argparse.ArgumentParser("python -m ops.simulator", description="A simulated Ollama.")
    parser.add_argument("--listen", default="127.0.0.1:11434", metavar="HOST:PORT", help="port 0 selects a free one")
    parser.add_argument(
        "--models", default=",".join(MODELS), help="installed models, comma-separated; NAME+embedding adds a capability"
    )
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="pace of an answer; 0 is as fast as possible")
    parser.add_argument("--prefill-tokens-per-s", type=float, default=0.0, help="pace of evaluating a prompt")
    parser.add_argument("--load-s", type=float, default=0.0, help="seconds that loading a model takes")
    parser.add_argument(
        "--num-parallel", type=int, default=0, help="requests that run in one model at a time; 0 is no limit"
    )
    parser.add_argument("--max-queue", type=int, default=512, help="requests that may wait for a load; 503 beyond")
    parser.add_argument(
        "--max-loaded-models", type=int, default=0, help="models that are loaded at a time; 0 is no limit"
    )
    parser.add_argument("--context-length", type=int, default=4096, help="tokens, unless model or request set num_ctx")
    parser.add_argument("--seed", type=int, default=0, help="varies the answers")
    parser.add_argument("--auth-header", default="Authorization")
    parser.add_argument("--auth-token-file", type=Path, help="requests must carry a token from this file, one per line")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parsed = parser.parse_args(arguments)
    host, _, port = parsed.listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        parser.error("--listen: expected HOST:PORT")
    tokens = [SecretStr(line) for line in parsed.auth_token_file.read_text().split()] if parsed.auth_token_file else []
    return SimulatorOptions(
        host=host.strip("[]"),
        port=int(port),
        models=[name.strip() for name in parsed.models.split(",") if name.strip()],
        behaviour=Behaviour(**{name: getattr(parsed, name) for name in _BEHAVIOUR}),
        auth=Auth(tokens[0], parsed.auth_header, other_tokens=tuple(tokens[1:])) if tokens else None,
        tls_cert=parsed.tls_cert,
        tls_key=parsed.tls_key,
    )


async def _serve_until_stopped(options: SimulatorOptions) -> None:
    task = asyncio.ensure_future(serve(options, on_ready=lambda url: print(url, flush=True)))  # noqa: T201
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """Serves until SIGINT or SIGTERM. Returns the exit code."""
    options = read_options()
    try:
        asyncio.run(_serve_until_stopped(options))
    except OSError as error:
        print(f"error: {error.filename or f'{options.host}:{options.port}'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
