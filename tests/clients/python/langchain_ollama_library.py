"""langchain-ollama. It lists no models."""

from __future__ import annotations

from typing import Any

from langchain_ollama import ChatOllama, OllamaEmbeddings

from tests.clients.python.runner import TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, Action, Settings, run

TOOLS: Any = [{"type": "function", "function": {"name": TOOL_NAME, "parameters": TOOL_PARAMETERS}}]


def client(settings: Settings) -> Any:
    return ChatOllama(model=settings.model, base_url=settings.url, client_kwargs=_with_key(settings))


def chat(settings: Settings) -> dict[str, Any]:
    return {"text": client(settings).invoke(settings.prompt).content}


def stream(settings: Settings) -> dict[str, Any]:
    parts = [chunk.content for chunk in client(settings).stream(settings.prompt)]
    return {"text": "".join(parts), "parts": len(parts)}


def tools(settings: Settings) -> dict[str, Any]:
    bound = client(settings).bind_tools(TOOLS)
    answer = bound.invoke(TOOL_PROMPT)
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": TOOL_RESULT}
        for call in answer.tool_calls
        if call["name"] == TOOL_NAME
    ]
    return {"text": bound.invoke([{"role": "user", "content": TOOL_PROMPT}, answer, *results]).content}


def embed(settings: Settings) -> dict[str, Any]:
    embeddings = OllamaEmbeddings(
        model=settings.embedding_model, base_url=settings.url, client_kwargs=_with_key(settings)
    )
    return {"dimensions": [len(vector) for vector in embeddings.embed_documents(["one", "two"])]}


def abort(settings: Settings) -> dict[str, Any]:
    chunks = client(settings).stream(settings.prompt)
    next(chunks)
    chunks.close()
    return {"text": ""}


def _with_key(settings: Settings) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {settings.key}"}}


ACTIONS: dict[str, Action] = {"chat": chat, "stream": stream, "tools": tools, "embed": embed, "abort": abort}

if __name__ == "__main__":
    run(ACTIONS)
