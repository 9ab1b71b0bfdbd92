#!/opt/gateway/bin/python
"""The command `ollama` of the official image, with the simulated server: the same arguments, ports and data directory.

The models are the manifests below ~/.ollama, as in the real Ollama.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection
from pathlib import Path

LIBRARY = Path("/root/.ollama/models/manifests/registry.ollama.ai/library")


def installed() -> list[str]:
    """The names of the models on disk, with their tags."""
    return sorted(f"{path.parent.name}:{path.name}" for path in LIBRARY.glob("*/*"))


def serve() -> None:
    """Serves the installed models at $OLLAMA_HOST."""
    listen = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434")
    module = ["-P", "-m", "ops.simulator", "--tokens-per-s", "60"]
    options = ["--listen", listen, "--models", ",".join(installed())]
    os.execv(sys.executable, [sys.executable, *module, *options])  # noqa: S606


def ls() -> None:
    """Exits with 0 if the server answers, else with 1."""
    connection = HTTPConnection("127.0.0.1", 11434, timeout=5)
    connection.request("GET", "/api/tags")
    sys.exit(connection.getresponse().status != 200)


def pull(name: str) -> None:
    """Installs a model. Unlike the real command, it downloads nothing."""
    model, _, tag = name.partition(":")
    path = LIBRARY / model / (tag or "latest")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["ls"]:
            ls()
        case ["pull", name]:
            pull(name)
        case _:
            sys.exit("ollama serve | ls | pull MODEL")
