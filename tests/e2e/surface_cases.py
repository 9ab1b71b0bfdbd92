"""One request per surface and mode, as keyword arguments of an official client. They are the JSON body as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LLAMA, THINKER, VISION, EMBEDDER = "llama3.2:latest", "qwen3:8b", "gemma3:270m", "nomic-embed-text:latest"
CODER = "codellama:7b-code"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "age": {"type": "integer"}}}
WEATHER = {"name": "get_weather", "description": "The weather of a city", "parameters": SCHEMA}
FUNCTION = {"type": "function", "function": WEATHER}


def user(content: Any, **more: Any) -> list[Any]:
    """The messages of a chat with one message of the user."""
    return [{"role": "user", "content": content, **more}]


HELLO, USE_TOOL = user("Why is the sky blue?"), user("Use get_weather for Oslo")
TEXT = {"type": "text", "text": "What is this?"}
IMAGE_URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
INPUT_IMAGE = {"type": "input_image", "image_url": IMAGE_URL["image_url"]["url"], "detail": "auto"}  # type: ignore[index]
IMAGE_SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
NAMED_SCHEMA = {"type": "json_schema", "name": "person", "schema": SCHEMA}


@dataclass(frozen=True)
class SurfaceCase:
    """One request. `usage`: whether the client receives a usage report in (a whole answer, a stream)."""

    surface: str
    mode: str
    arguments: dict[str, Any]
    usage: tuple[bool, bool] = (True, True)


GENERATION_CASES = [
    SurfaceCase("chat", "plain", {"model": LLAMA, "messages": HELLO}),
    SurfaceCase("chat", "thinking", {"model": THINKER, "messages": HELLO, "think": True}),
    SurfaceCase("chat", "tools", {"model": LLAMA, "messages": USE_TOOL, "tools": [FUNCTION]}),
    SurfaceCase("chat", "tools", {"model": THINKER, "messages": USE_TOOL, "tools": [FUNCTION], "think": False}),
    SurfaceCase("chat", "image", {"model": VISION, "messages": user("What is this?", images=[PNG])}),
    SurfaceCase("chat", "json", {"model": LLAMA, "messages": HELLO, "format": "json"}),
    SurfaceCase("chat", "json", {"model": LLAMA, "messages": HELLO, "format": SCHEMA}),
    SurfaceCase("chat", "logprobs", {"model": LLAMA, "messages": HELLO, "logprobs": True, "top_logprobs": 2}),
    SurfaceCase("generate", "plain", {"model": LLAMA, "prompt": "Write about rivers."}),
    SurfaceCase("generate", "plain", {"model": CODER, "prompt": "def add(a, b):", "suffix": "return c", "raw": True}),
    SurfaceCase("generate", "thinking", {"model": THINKER, "prompt": "Write about rivers.", "think": True}),
    SurfaceCase("generate", "image", {"model": VISION, "prompt": "What is this?", "images": [PNG]}),
    SurfaceCase("generate", "json", {"model": LLAMA, "prompt": "Write about rivers.", "format": SCHEMA}),
    SurfaceCase("generate", "logprobs", {"model": LLAMA, "prompt": "Write about rivers.", "logprobs": True}),
    SurfaceCase("v1_chat", "plain", {"model": LLAMA, "messages": HELLO}, usage=(True, False)),
    SurfaceCase(
        "v1_chat", "thinking", {"model": THINKER, "messages": HELLO, "reasoning_effort": "high"}, usage=(True, False)
    ),
    SurfaceCase("v1_chat", "tools", {"model": LLAMA, "messages": USE_TOOL, "tools": [FUNCTION]}, usage=(True, False)),
    SurfaceCase("v1_chat", "image", {"model": VISION, "messages": user([TEXT, IMAGE_URL])}, usage=(True, False)),
    SurfaceCase(
        "v1_chat",
        "json",
        {
            "model": LLAMA,
            "messages": HELLO,
            "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
        },
        usage=(True, False),
    ),
    SurfaceCase(
        "v1_chat",
        "logprobs",
        {"model": LLAMA, "messages": HELLO, "logprobs": True, "top_logprobs": 2, "max_completion_tokens": 9},
        usage=(True, False),
    ),
    SurfaceCase("v1_completions", "plain", {"model": LLAMA, "prompt": "Once upon a time"}, usage=(True, False)),
    SurfaceCase(
        "v1_responses", "plain", {"model": LLAMA, "input": "Why is the sky blue?", "instructions": "Be short."}
    ),
    SurfaceCase("v1_responses", "thinking", {"model": THINKER, "input": HELLO, "reasoning": {"effort": "high"}}),
    SurfaceCase(
        "v1_responses", "tools", {"model": LLAMA, "input": USE_TOOL, "tools": [{"type": "function", **WEATHER}]}
    ),
    SurfaceCase(
        "v1_responses",
        "image",
        {"model": VISION, "input": user([{"type": "input_text", "text": "What is this?"}, INPUT_IMAGE])},
    ),
    SurfaceCase("v1_responses", "json", {"model": LLAMA, "input": HELLO, "text": {"format": NAMED_SCHEMA}}),
    SurfaceCase("v1_messages", "plain", {"model": LLAMA, "messages": HELLO, "system": "Be short."}),
    SurfaceCase(
        "v1_messages",
        "thinking",
        {"model": THINKER, "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    ),
    SurfaceCase(
        "v1_messages",
        "tools",
        {"model": LLAMA, "messages": USE_TOOL, "tools": [{"name": "get_weather", "input_schema": SCHEMA}]},
    ),
    SurfaceCase("v1_messages", "image", {"model": VISION, "messages": user([TEXT, IMAGE_SOURCE])}),
]
EMBEDDING_CASES = [
    SurfaceCase("embed", "vectors", {"model": EMBEDDER, "input": "a river"}),
    SurfaceCase("embed", "vectors", {"model": EMBEDDER, "input": ["a river", "two rivers"], "truncate": True}),
    SurfaceCase("embeddings", "vectors", {"model": EMBEDDER, "prompt": "a river"}, usage=(False, False)),
    SurfaceCase("v1_embeddings", "vectors", {"model": EMBEDDER, "input": ["a river", "two rivers"]}),
    SurfaceCase("v1_embeddings", "vectors", {"model": EMBEDDER, "input": "a river", "encoding_format": "float"}),
]
