"""LiteLLM as a library, with its providers `openai`, `ollama_chat` and `anthropic`. It lists only its own models."""

from __future__ import annotations

import os
from typing import Any

import litellm

from tests.clients.python.runner import TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, Action, Settings, run

PROVIDER = os.environ.get("CLIENT_PROVIDER", "openai")
TOOLS: Any = [{"type": "function", "function": {"name": TOOL_NAME, "parameters": TOOL_PARAMETERS}}]

litellm.telemetry = False
litellm.suppress_debug_info = True


def chat(settings: Settings) -> dict[str, Any]:
    return {"text": _complete(settings, _messages(settings)).choices[0].message.content}


def stream(settings: Settings) -> dict[str, Any]:
    chunks = _complete(settings, _messages(settings), stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    return {"text": "".join(parts), "parts": len(parts)}


def tools(settings: Settings) -> dict[str, Any]:
    messages = [{"role": "user", "content": TOOL_PROMPT}]
    message = _complete(settings, messages, tools=TOOLS).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": TOOL_RESULT}
        for call in message.tool_calls or ()
        if call.function.name == TOOL_NAME
    ]
    again = _complete(settings, [*messages, message.model_dump(), *results], tools=TOOLS)
    return {"text": again.choices[0].message.content}


def embed(settings: Settings) -> dict[str, Any]:
    provider = {"ollama_chat": "ollama"}.get(PROVIDER, PROVIDER)
    answer = litellm.embedding(
        model=f"{provider}/{settings.embedding_model}", input=["one", "two"], api_base=_base(settings),
        api_key=settings.key,
    )  # fmt: skip
    return {"dimensions": [len(row["embedding"]) for row in answer.data]}


def abort(settings: Settings) -> dict[str, Any]:
    chunks = _complete(settings, _messages(settings), stream=True)
    next(iter(chunks))
    # The process ends, which closes the connection.
    return {"text": ""}


def _complete(settings: Settings, messages: list[Any], **arguments: Any) -> Any:
    return litellm.completion(
        model=f"{PROVIDER}/{settings.model}", messages=messages, api_base=_base(settings), api_key=settings.key,
        max_retries=0, **arguments,
    )  # fmt: skip


def _base(settings: Settings) -> str:
    return f"{settings.url}/v1" if PROVIDER == "openai" else settings.url


def _messages(settings: Settings) -> list[Any]:
    return [{"role": "user", "content": settings.prompt}]


ACTIONS: dict[str, Action] = {"chat": chat, "stream": stream, "tools": tools, "embed": embed, "abort": abort}

if __name__ == "__main__":
    run(ACTIONS)
