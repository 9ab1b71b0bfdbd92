"""The OpenAI library for Python."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from tests.clients.python.runner import TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, Action, Settings, run

TOOLS: Any = [{"type": "function", "function": {"name": TOOL_NAME, "parameters": TOOL_PARAMETERS}}]


def client(settings: Settings) -> OpenAI:
    return OpenAI(base_url=f"{settings.url}/v1", api_key=settings.key, max_retries=0)


def list_models(settings: Settings) -> dict[str, Any]:
    return {"models": [model.id for model in client(settings).models.list()]}


def chat(settings: Settings) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": settings.prompt}]
    answer = client(settings).chat.completions.create(model=settings.model, messages=messages)
    return {"text": answer.choices[0].message.content}


def stream(settings: Settings) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": settings.prompt}]
    chunks = client(settings).chat.completions.create(model=settings.model, messages=messages, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    return {"text": "".join(parts), "parts": len(parts)}


def tools(settings: Settings) -> dict[str, Any]:
    completions = client(settings).chat.completions
    messages: Any = [{"role": "user", "content": TOOL_PROMPT}]
    message = completions.create(model=settings.model, messages=messages, tools=TOOLS).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": TOOL_RESULT}
        for call in message.tool_calls or ()
        if call.type == "function" and call.function.name == TOOL_NAME
    ]
    again: Any = [*messages, message, *results]
    return {"text": completions.create(model=settings.model, messages=again, tools=TOOLS).choices[0].message.content}


def embed(settings: Settings) -> dict[str, Any]:
    rows = client(settings).embeddings.create(model=settings.embedding_model, input=["one", "two"]).data
    return {"dimensions": [len(row.embedding) for row in rows]}


def abort(settings: Settings) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": settings.prompt}]
    with client(settings).chat.completions.create(model=settings.model, messages=messages, stream=True) as chunks:
        next(iter(chunks))
    return {"text": ""}


ACTIONS: dict[str, Action] = {
    "list": list_models, "chat": chat, "stream": stream, "tools": tools, "embed": embed, "abort": abort,
}  # fmt: skip

if __name__ == "__main__":
    run(ACTIONS)
