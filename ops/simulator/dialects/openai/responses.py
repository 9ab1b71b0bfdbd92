"""OpenAI's `/v1/responses`: the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects.base import Dialect
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.gojson import ANY, OPTIONAL_BOOL, OPTIONAL_FLOAT, OPTIONAL_INT, STRING, Array, Struct
from ops.simulator.dialects.openai.common import check_image, encode_openai_error, read_effort
from ops.simulator.dialects.openai.response_events import ResponsesEncoder
from ops.simulator.dialects.parameters import bind
from ops.simulator.generation.request import GenerationRequest, Tool, Turn

_TOOL = Struct(
    "ResponsesTool",
    {"type": STRING, "name": STRING, "description": ANY, "strict": ANY, "parameters": ANY},
)
_REQUEST = Struct(
    "ResponsesRequest",
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "max_output_tokens": OPTIONAL_INT,
        "reasoning": Struct("ResponsesReasoning", {"effort": STRING, "summary": STRING}),
        "stream": OPTIONAL_BOOL,
        "temperature": OPTIONAL_FLOAT,
        "top_p": OPTIONAL_FLOAT,
        "text": ANY,
        "tools": Array(_TOOL, "[]openai.ResponsesTool"),
        "truncation": STRING,
    },
)


class Responses(Dialect):
    """`POST /v1/responses`."""

    encoder = ResponsesEncoder
    stream_headers = {"Cache-Control": "no-cache"}  # noqa: RUF012 - the base class declares a class variable

    def read(self, body: bytes) -> GenerationRequest:
        """Raises ApiError."""
        fields = bind(body, _REQUEST)
        instructions = fields.get("instructions") or ""
        system = (Turn("system", instructions),) if instructions else ()
        turns = tuple(_turns(fields.get("input")))
        tools = [tool for tool in fields.get("tools") or () if tool]
        return GenerationRequest(
            endpoint="chat",
            model=fields.get("model") or "",
            turns=(*system, *turns),
            load_only=not turns,
            stream=bool(fields.get("stream")),
            num_predict=fields.get("max_output_tokens"),
            think=read_effort((fields.get("reasoning") or {}).get("effort")),
            tools=tuple(Tool(tool.get("name") or "", tool.get("parameters")) for tool in tools),
            format=_read_format(fields.get("text")),
            echoed_fields=_echoed_fields(fields, tools),
        )

    def encode_error(self, error: ApiError) -> tuple[str, bytes]:
        """OpenAI's error object."""
        return encode_openai_error(error)


def _turns(items: Any) -> Iterator[Turn]:
    if isinstance(items, str):
        if items:
            yield Turn("user", items)
        return
    if not isinstance(items, list):
        if items is not None:
            raise ApiError(400, "input must be a string or array", at_binding=True)
        return
    for item in items:
        if not isinstance(item, dict):
            raise ApiError(400, "invalid input item", at_binding=True)
        kind = item.get("type") or "message"
        if kind == "message":
            yield from _message_turns(str(item.get("role") or "user").lower(), item.get("content"))
        elif kind == "function_call_output":
            yield Turn("tool", str(item.get("output", "")))
        elif kind == "function_call":
            yield Turn("assistant", str(item.get("arguments", "")))
        elif kind != "reasoning":
            raise ApiError(400, f"unknown input item type: {kind}", at_binding=True)


def _message_turns(role: str, content: Any) -> Iterator[Turn]:
    if isinstance(content, str):
        yield Turn(role, content)
        return
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text"):
            yield Turn(role, str(part.get("text", "")))
        elif kind == "input_image":
            check_image(part.get("image_url"))
            yield Turn(role, "", images=1)


def _read_format(text: Any) -> Any:
    text_format = text.get("format") if isinstance(text, dict) else None
    if not isinstance(text_format, dict):
        return None
    kind = text_format.get("type", "")
    if not isinstance(kind, str):
        raise ApiError(400, "text.format.type must be a string", at_binding=True)
    return {"json_object": "json", "json_schema": text_format.get("schema") or "json"}.get(kind)


def _echoed_fields(fields: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    tool_fields = ("type", "name", "description", "strict", "parameters")
    reasoning = fields.get("reasoning")
    return {
        "instructions": fields.get("instructions") or None,
        "tools": [{**{name: tool.get(name) for name in tool_fields}, "name": tool.get("name") or ""} for tool in tools],
        "truncation": fields.get("truncation") or "disabled",
        "text": fields.get("text") or {"format": {"type": "text"}},
        "top_p": 1 if fields.get("top_p") is None else fields["top_p"],
        "temperature": 1 if fields.get("temperature") is None else fields["temperature"],
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")} if reasoning else None,
        "max_output_tokens": fields.get("max_output_tokens"),
    }
