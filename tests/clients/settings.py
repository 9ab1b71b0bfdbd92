"""Where the clients are installed, and the words that the cases use."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build" / "clients"
PYTHON = INSTALLED / "venv" / "bin" / "python"
JAVASCRIPT = INSTALLED / "javascript"
NODE_BIN = INSTALLED / "venv" / "bin"
PROGRAMS = JAVASCRIPT / "node_modules" / ".bin"
JAVASCRIPT_SOURCES = Path(__file__).with_name("javascript")

# The simulated Ollama begins an answer with the longest word in the prompt, which has at most 24 letters.
WORD = "wolpertingerwolpertinger"
PROMPT = f"Say a few words about {WORD}"
ANSWER = f"About {WORD}: "

MODEL = "llama3.2:latest"
THINKING_MODEL = "qwen3:8b"
EMBEDDING_MODEL = "nomic-embed-text:latest"
EMBEDDING_DIMENSIONS = 768
CONTEXT_TOKENS = 131_072


def isolated_environment(home: Path) -> dict[str, str]:
    """An environment with a separate home, in which only loopback is reachable: nothing listens on the proxy's port."""
    unreachable = "http://127.0.0.1:9"
    return {
        "PATH": f"{NODE_BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "HTTP_PROXY": unreachable,
        "HTTPS_PROXY": unreachable,
        "NO_PROXY": "127.0.0.1,localhost",
    }
