"""The Anthropic library for Python. It has no embeddings."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic

from tests.clients.python.runner import TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, Action, Settings, run

TOOLS: Any = [{"name": TOOL_NAME, "input_schema": TOOL_PARAMETERS}]
OUTPUT_TOKENS_MAX = 1000


def client(settings: Settings) -> Anthropic:
    return Anthropic(base_url=settings.url, api_key=settings.key, max_retries=0)


def list_models(settings: Settings) -> dict[str, Any]:
    return {"models": [model.id for model in client(settings).models.list()]}


def chat(settings: Settings) -> dict[str, Any]:
    return {"text": _text(_create(settings, _messages(settings)))}


def stream(settings: Settings) -> dict[str, Any]:
    with client(settings).messages.stream(
        model=settings.model, messages=_messages(settings), max_tokens=OUTPUT_TOKENS_MAX
    ) as events:
        parts = list(events.text_stream)
    return {"text": "".join(parts), "parts": len(parts)}


def tools(settings: Settings) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": TOOL_PROMPT}]
    answer = _create(settings, messages, tools=TOOLS)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": TOOL_RESULT}
        for block in answer.content
        if block.type == "tool_use" and block.name == TOOL_NAME
    ]
    turns = [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    return {"text": _text(_create(settings, [*messages, *turns], tools=TOOLS))}


def abort(settings: Settings) -> dict[str, Any]:
    with client(settings).messages.create(
        model=settings.model, messages=_messages(settings), max_tokens=OUTPUT_TOKENS_MAX, stream=True
    ) as events:
        next(iter(events))
    return {"text": ""}


def _create(settings: Settings, messages: list[Any], **arguments: Any) -> Any:
    return client(settings).messages.create(
        model=settings.model, messages=messages, max_tokens=OUTPUT_TOKENS_MAX, **arguments
    )


def _text(answer: Any) -> str:
    return "".join(block.text for block in answer.content if block.type == "text")


def _messages(settings: Settings) -> list[Any]:
    return [{"role": "user", "content": settings.prompt}]


ACTIONS: dict[str, Action] = {"list": list_models, "chat": chat, "stream": stream, "tools": tools, "abort": abort}

if __name__ == "__main__":
    run(ACTIONS)
