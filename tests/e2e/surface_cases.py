"""One request for every surface and mode, as the keyword arguments of an official client, which are its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LLAMA, THINKER, SEER, EMBEDDER = "llama3.2:latest", "qwen3:8b", "gemma3:270m", "nomic-embed-text:latest"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "age": {"type": "integer"}}}
WEATHER = {"name": "get_weather", "description": "The weather of a city", "parameters": SCHEMA}
FUNCTION = {"type": "function", "function": WEATHER}


def user(content: Any, **more: Any) -> list[Any]:
    return [{"role": "user", "content": content, **more}]


HELLO, ASK = user("Why is the sky blue?"), user("Use get_weather for Oslo")
TEXT = {"type": "text", "text": "What is this?"}
IMAGE_URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
INPUT_IMAGE = {"type": "input_image", "image_url": IMAGE_URL["image_url"]["url"], "detail": "auto"}  # type: ignore[index]
IMAGE_SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
NAMED_SCHEMA = {"type": "json_schema", "name": "person", "schema": SCHEMA}


@dataclass(frozen=True)
class Case:
    """`usage`: what the client is told of it in a whole answer and in a stream."""

    surface: str
    mode: str
    asked: dict[str, Any]
    usage: tuple[bool, bool] = (True, True)


CASES = [
    Case("chat", "plain", {"model": LLAMA, "messages": HELLO}),
    Case("chat", "thinking", {"model": THINKER, "messages": HELLO, "think": True}),
    Case("chat", "tools", {"model": LLAMA, "messages": ASK, "tools": [FUNCTION]}),
    Case("chat", "tools", {"model": THINKER, "messages": ASK, "tools": [FUNCTION], "think": False}),
    Case("chat", "image", {"model": SEER, "messages": user("What is this?", images=[PNG])}),
    Case("chat", "json", {"model": LLAMA, "messages": HELLO, "format": "json"}),
    Case("chat", "json", {"model": LLAMA, "messages": HELLO, "format": SCHEMA}),
    Case("chat", "logprobs", {"model": LLAMA, "messages": HELLO, "logprobs": True, "top_logprobs": 2}),
    Case("generate", "plain", {"model": LLAMA, "prompt": "Tell me about rivers."}),
    Case("generate", "plain", {"model": LLAMA, "prompt": "def add(a, b):", "suffix": "return c", "raw": True}),
    Case("generate", "thinking", {"model": THINKER, "prompt": "Tell me about rivers.", "think": True}),
    Case("generate", "image", {"model": SEER, "prompt": "What is this?", "images": [PNG]}),
    Case("generate", "json", {"model": LLAMA, "prompt": "Tell me about rivers.", "format": SCHEMA}),
    Case("generate", "logprobs", {"model": LLAMA, "prompt": "Tell me about rivers.", "logprobs": True}),
    Case("v1_chat", "plain", {"model": LLAMA, "messages": HELLO}, usage=(True, False)),
    Case("v1_chat", "thinking", {"model": THINKER, "messages": HELLO, "reasoning_effort": "high"}, usage=(True, False)),
    Case("v1_chat", "tools", {"model": LLAMA, "messages": ASK, "tools": [FUNCTION]}, usage=(True, False)),
    Case("v1_chat", "image", {"model": SEER, "messages": user([TEXT, IMAGE_URL])}, usage=(True, False)),
    Case(
        "v1_chat",
        "json",
        {
            "model": LLAMA,
            "messages": HELLO,
            "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
        },
        usage=(True, False),
    ),
    Case(
        "v1_chat",
        "logprobs",
        {"model": LLAMA, "messages": HELLO, "logprobs": True, "top_logprobs": 2, "max_completion_tokens": 9},
        usage=(True, False),
    ),
    Case("v1_completions", "plain", {"model": LLAMA, "prompt": "Once upon a time"}, usage=(True, False)),
    Case("v1_responses", "plain", {"model": LLAMA, "input": "Why is the sky blue?", "instructions": "Be short."}),
    Case("v1_responses", "thinking", {"model": THINKER, "input": HELLO, "reasoning": {"effort": "high"}}),
    Case("v1_responses", "tools", {"model": LLAMA, "input": ASK, "tools": [{"type": "function", **WEATHER}]}),
    Case(
        "v1_responses",
        "image",
        {"model": SEER, "input": user([{"type": "input_text", "text": "What is this?"}, INPUT_IMAGE])},
    ),
    Case("v1_responses", "json", {"model": LLAMA, "input": HELLO, "text": {"format": NAMED_SCHEMA}}),
    Case("v1_messages", "plain", {"model": LLAMA, "messages": HELLO, "system": "Be short."}),
    Case(
        "v1_messages",
        "thinking",
        {"model": THINKER, "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    ),
    Case(
        "v1_messages",
        "tools",
        {"model": LLAMA, "messages": ASK, "tools": [{"name": "get_weather", "input_schema": SCHEMA}]},
    ),
    Case("v1_messages", "image", {"model": SEER, "messages": user([TEXT, IMAGE_SOURCE])}),
]
VECTORS = [
    Case("embed", "vectors", {"model": EMBEDDER, "input": "a river"}),
    Case("embed", "vectors", {"model": EMBEDDER, "input": ["a river", "two rivers"], "truncate": True}),
    Case("embeddings", "vectors", {"model": EMBEDDER, "prompt": "a river"}, usage=(False, False)),
    Case("v1_embeddings", "vectors", {"model": EMBEDDER, "input": ["a river", "two rivers"]}),
    Case("v1_embeddings", "vectors", {"model": EMBEDDER, "input": "a river", "encoding_format": "float"}),
]
