"""How Ollama parses a request body: its request structs, decoded as Go decodes them.

The structs and the types of their fields are those of ollama/ollama api/types.go, openai/openai.go, openai/responses.go
and anthropic/anthropic.go. `gin` decodes only the first value of the body (github.com/gin-gonic/gin binding/json.go). A
field whose type has its own decoder is `any` here, which accepts more than Ollama does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.wire.surfaces import Surface
from ops.simulator.models import names
from tests.fuzz.go_json import (
    ANY,
    BOOL,
    BOOL_POINTER,
    FLOAT_POINTER,
    INT,
    INT_POINTER,
    MAP,
    STRING,
    STRING_POINTER,
    GoError,
    Kind,
    Slice,
    Struct,
    first_value,
)  # fmt: skip

_TOOL = Struct({"type": STRING, "name": STRING, "function": ANY})
_NAMESPACE_TOOL = Struct({**_TOOL.fields, "tools": Slice(_TOOL)})
_MESSAGES = Slice(Struct({"role": STRING, "content": ANY}))
_STREAM_OPTIONS = Struct({"include_usage": BOOL}, pointer=True)
_NATIVE: dict[str, Kind] = {
    "model": STRING, "stream": BOOL_POINTER, "format": ANY, "keep_alive": ANY, "options": MAP, "think": ANY,
    "truncate": BOOL_POINTER, "shift": BOOL_POINTER, "_debug_render_only": BOOL, "logprobs": BOOL,
    "top_logprobs": INT,
}  # fmt: skip
_OPENAI: dict[str, Kind] = {
    "model": STRING, "stream": BOOL, "stream_options": _STREAM_OPTIONS, "max_tokens": INT_POINTER,
    "seed": INT_POINTER, "stop": ANY, "temperature": FLOAT_POINTER, "top_p": FLOAT_POINTER,
    "frequency_penalty": FLOAT_POINTER, "presence_penalty": FLOAT_POINTER, "_debug_render_only": BOOL,
}  # fmt: skip

STRUCTS: dict[str, Struct] = {
    "chat": Struct({**_NATIVE, "messages": _MESSAGES, "tools": Slice(_TOOL)}),
    "generate": Struct({
        **_NATIVE, "prompt": STRING, "suffix": STRING, "system": STRING, "template": STRING, "context": Slice(INT),
        "raw": BOOL, "images": ANY,
    }),
    "embed": Struct({
        "model": STRING, "input": ANY, "keep_alive": ANY, "truncate": BOOL_POINTER, "dimensions": INT, "options": MAP,
    }),
    "embeddings": Struct({"model": STRING, "prompt": STRING, "keep_alive": ANY, "options": MAP}),
    "v1_chat": Struct({
        **_OPENAI, "messages": _MESSAGES, "tools": Slice(_TOOL), "response_format": ANY, "reasoning": ANY,
        "reasoning_effort": STRING_POINTER, "logprobs": BOOL_POINTER, "top_logprobs": INT,
    }),
    "v1_completions": Struct({**_OPENAI, "prompt": STRING, "suffix": STRING, "logprobs": INT_POINTER}),
    "v1_embeddings": Struct({"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING}),
    "v1_responses": Struct({
        "model": STRING, "background": BOOL, "conversation": ANY, "include": Slice(STRING), "input": ANY,
        "instructions": STRING, "max_output_tokens": INT_POINTER, "reasoning": ANY, "temperature": FLOAT_POINTER,
        "text": ANY, "top_p": FLOAT_POINTER, "truncation": ANY, "tools": Slice(_NAMESPACE_TOOL),
        "stream": BOOL_POINTER,
    }),
    "v1_messages": Struct({
        "model": STRING, "max_tokens": INT, "messages": _MESSAGES, "system": ANY, "stream": BOOL,
        "temperature": FLOAT_POINTER, "top_p": FLOAT_POINTER, "top_k": INT_POINTER, "stop_sequences": Slice(STRING),
        "tools": Slice(_TOOL), "tool_choice": ANY, "thinking": ANY, "metadata": ANY, "output_config": ANY,
    }),
}  # fmt: skip

# The fields of api.Options in api.Runner are set when a model is loaded, so another value reloads the model.
_RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """The effect of a body on Ollama.

    `output_cap` is None if the output is unlimited. `runner` contains the fields and options that reload, retain or
    unload the model for all clients, or show the rendered prompt. `searches` is true if a tool is Ollama's own web
    search.
    """

    model: str
    stream: bool
    output_cap: int | None
    include_usage: bool
    runner: frozenset[str]
    searches: bool


def parse_request(surface: Surface, body: bytes) -> ParsedRequest:
    """Parses `body` as the handler of `surface` does. Raises GoError if the handler answers with an error."""
    fields = STRUCTS[surface.name].read(first_value(body), None) or {}
    options = fields.get("options") or {}
    return ParsedRequest(
        model=fields.get("model") or "",
        stream=_stream(surface, fields.get("stream")),
        output_cap=_output_cap(surface, fields, options),
        include_usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        runner=frozenset(
            [name for name in ("keep_alive", "shift") if fields.get(name) is not None]
            + (["_debug_render_only"] if fields.get("_debug_render_only") else [])
            + [f"options.{name}" for name in _RUNNER_OPTIONS if options.get(name) is not None]
        ),
        searches=any(_is_search(tool) for tool in fields.get("tools") or ()),
    )


def identity(model: str) -> tuple[str, str]:
    """The model that a name refers to, and where it runs: `cloud` or `here`. Raises GoError for an invalid name."""
    try:
        base, source = names.split_source(model)
    except names.ConflictingSource:
        raise GoError("conflicting sources") from None
    name = names.parse(base)
    if name is None:
        raise GoError("invalid model name")
    return name.key, "cloud" if source == "cloud" else "here"


def _stream(surface: Surface, stream: bool | None) -> bool:
    if surface.streams_by_default is None:
        return False
    return surface.streams_by_default if stream is None else stream


def _output_cap(surface: Surface, fields: Mapping[str, Any], options: Mapping[str, Any]) -> int | None:
    if surface.cap_field is None:
        return 0
    if surface.cap_field[0] == "options":
        cap = _as_option_int(options.get("num_predict"))
    else:
        cap = fields.get(surface.cap_field[0])
    return cap if cap is not None and cap > 0 else None


def _as_option_int(value: object) -> int | None:
    """Truncates a float64 to an int as `Options.FromMap` does. Beyond 64 bits, amd64 returns the lowest integer."""
    if value is None:
        return None
    if not isinstance(value, float):
        raise GoError("option must be of type integer")
    return int(value) if -(2.0**63) <= value < 2.0**63 else -(2**63)


def _is_search(tool: Mapping[str, Any] | None) -> bool:
    return bool(tool) and str((tool or {}).get("type") or "").startswith("web_search")
