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
from ops.simulator.app import Options, serve
from ops.simulator.control.behaviour import Behaviour
from ops.simulator.models.library import MODELS


def options(arguments: list[str] | None = None) -> Options:
    """The options of a command line; wrong ones end the program with a usage message."""
    parser = argparse.ArgumentParser("python -m ops.simulator", description="A simulated Ollama.")
    parser.add_argument("--listen", default="127.0.0.1:11434", metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument("--models", default=",".join(MODELS), help="installed models, comma-separated")
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="pace of an answer; 0 is no limit")
    parser.add_argument("--load-s", type=float, default=0.0, help="how long loading a model takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--auth-header", default="Authorization")
    parser.add_argument("--auth-token-file", type=Path, help="requests must carry a token of this file, one a line")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    given = parser.parse_args(arguments)
    host, _, port = given.listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        parser.error("--listen: HOST:PORT is expected")
    tokens = [SecretStr(line) for line in given.auth_token_file.read_text().split()] if given.auth_token_file else []
    return Options(
        host=host.strip("[]"),
        port=int(port),
        models=[name.strip() for name in given.models.split(",") if name.strip()],
        behaviour=Behaviour(tokens_per_s=given.tokens_per_s, load_s=given.load_s, seed=given.seed),
        auth=Auth(tokens[0], given.auth_header, others=tuple(tokens[1:])) if tokens else None,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
    )


async def _until_stopped(chosen: Options) -> None:
    task = asyncio.ensure_future(serve(chosen, ready=lambda url: print(url, flush=True)))  # noqa: T201
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """The process. Returns its exit code."""
    chosen = options()
    try:
        asyncio.run(_until_stopped(chosen))
    except OSError as error:
        print(f"error: {error.filename or f'{chosen.host}:{chosen.port}'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
