"""The clients that `make clients` runs, with the versions that are installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.clients.agents import claude_code, codex, opencode, qwen_code
from tests.clients.client import Client, Command, Target, library_command, read_agent, read_library
from tests.clients.settings import JAVASCRIPT, MODEL, NODE_BIN, PYTHON, THINKING_MODEL

_NO_EMBEDDINGS = "its API has no embeddings"
_REPEATS_429 = "it repeats a 429 until it is answered, whatever the answer is"
_AGENT_MISSING = {
    "list": "a model is named in its settings",
    "chat": "it always streams",
    "embed": "a coding agent makes no embeddings",
}


def clients() -> list[Client]:
    """Every client, in the order of the table."""
    return [
        _python("OpenAI, Python", "openai", "openai_library"),
        _javascript("OpenAI, JavaScript", "openai", "openai_library.mjs"),
        _python("Ollama, Python", "ollama", "ollama_library"),
        _javascript("Ollama, JavaScript", "ollama", "ollama_library.mjs"),
        _python("Anthropic, Python", "anthropic", "anthropic_library", embed=_NO_EMBEDDINGS),
        _javascript("Anthropic, JavaScript", "@anthropic-ai/sdk", "anthropic_library.mjs", embed=_NO_EMBEDDINGS),
        _python("LangChain", "langchain-ollama", "langchain_ollama_library", list="it lists no models"),
        _litellm("openai"),
        _litellm("ollama_chat"),
        _litellm("anthropic", embed=_NO_EMBEDDINGS),
        _agent("Claude Code", "@anthropic-ai/claude-code", claude_code.command, THINKING_MODEL),
        _agent("Codex", "@openai/codex", codex.command),
        _agent("opencode", "opencode-ai", opencode.command, **{"429": _REPEATS_429}),
        _agent("Qwen Code", "@qwen-code/qwen-code", qwen_code.command, **{"429": _REPEATS_429}),
    ]


def _python(name: str, package: str, module: str, **missing: str) -> Client:
    command = library_command((str(PYTHON), "-m", f"tests.clients.python.{module}"))
    return Client(name, _python_version(package), MODEL, command, read_library, missing)


def _litellm(provider: str, **missing: str) -> Client:
    arguments = (str(PYTHON), "-m", "tests.clients.python.litellm_library")
    missing = {"list": "it lists the models that it knows itself", **missing}
    # Without the second variable the import downloads the prices of models.
    command = library_command(arguments, CLIENT_PROVIDER=provider, LITELLM_LOCAL_MODEL_COST_MAP="True")
    return Client(f"LiteLLM, `{provider}/`", _python_version("litellm"), MODEL, command, read_library, missing)


def _javascript(name: str, package: str, script: str, **missing: str) -> Client:
    command = library_command((str(NODE_BIN / "node"), str(JAVASCRIPT / script)))
    return Client(name, _npm_version(package), MODEL, command, read_library, missing)


def _agent(
    name: str, package: str, command: Callable[[str, Target, Path], Command], model: str = MODEL, **missing: str
) -> Client:
    missing = {**_AGENT_MISSING, **missing}
    return Client(name, _npm_version(package), model, command, read_agent, missing, interrupts=True)


def _python_version(package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _npm_version(package: str) -> str:
    version: str = json.loads((JAVASCRIPT / "node_modules" / package / "package.json").read_text())["version"]
    return version
