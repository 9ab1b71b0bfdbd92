"""The Ollama library for Python. It reads the key from OLLAMA_API_KEY."""

from __future__ import annotations

import os
from typing import Any

from ollama import Client

from tests.clients.python.runner import TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, Action, Settings, run

TOOLS: Any = [{"type": "function", "function": {"name": TOOL_NAME, "parameters": TOOL_PARAMETERS}}]


def client(settings: Settings) -> Client:
    # The constructor reads the variable, which has no argument.
    os.environ["OLLAMA_API_KEY"] = settings.key
    return Client(host=settings.url)


def list_models(settings: Settings) -> dict[str, Any]:
    return {"models": [model.model for model in client(settings).list().models]}


def chat(settings: Settings) -> dict[str, Any]:
    return {"text": client(settings).chat(settings.model, _messages(settings)).message.content}


def stream(settings: Settings) -> dict[str, Any]:
    chunks = client(settings).chat(settings.model, _messages(settings), stream=True)
    parts = [chunk.message.content or "" for chunk in chunks]
    return {"text": "".join(parts), "parts": len(parts)}


def tools(settings: Settings) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": TOOL_PROMPT}]
    message = client(settings).chat(settings.model, messages, tools=TOOLS).message
    called = [call.function.name for call in message.tool_calls or ()]
    results = [{"role": "tool", "tool_name": name, "content": TOOL_RESULT} for name in called if name == TOOL_NAME]
    return {"text": client(settings).chat(settings.model, [*messages, message, *results], tools=TOOLS).message.content}


def embed(settings: Settings) -> dict[str, Any]:
    vectors = client(settings).embed(settings.embedding_model, ["one", "two"]).embeddings
    return {"dimensions": [len(vector) for vector in vectors]}


def abort(settings: Settings) -> dict[str, Any]:
    chunks: Any = client(settings).chat(settings.model, _messages(settings), stream=True)
    next(chunks)
    chunks.close()
    return {"text": ""}


def _messages(settings: Settings) -> list[Any]:
    return [{"role": "user", "content": settings.prompt}]


ACTIONS: dict[str, Action] = {
    "list": list_models, "chat": chat, "stream": stream, "tools": tools, "embed": embed, "abort": abort,
}  # fmt: skip

if __name__ == "__main__":
    run(ACTIONS)
