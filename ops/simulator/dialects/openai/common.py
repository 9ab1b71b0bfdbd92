"""The parts of the OpenAI formats that several surfaces have in common."""

from __future__ import annotations

import time
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.errors import ApiError, native_error
from ops.simulator.dialects.gojson import ANY, BOOL, OPTIONAL_FLOAT, OPTIONAL_INT, STRING, GoType, Struct
from ops.simulator.dialects.media_types import JSON, JSON_UTF8
from ops.simulator.generation.events import Finish, ToolCall

DONE = b"data: [DONE]\n\n"
_IMAGE_HEADS = {"data:;base64", *(f"data:image/{kind};base64" for kind in ("jpeg", "jpg", "png", "webp"))}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max")
_STREAM_OPTIONS = Struct("StreamOptions", {"include_usage": BOOL})
# The fields that chat completions and completions share.
COMMON_FIELDS: dict[str, GoType] = {
    "model": STRING, "stream": BOOL, "stream_options": _STREAM_OPTIONS, "max_tokens": OPTIONAL_INT,
    "seed": OPTIONAL_INT, "stop": ANY, "temperature": OPTIONAL_FLOAT, "top_p": OPTIONAL_FLOAT,
    "frequency_penalty": OPTIONAL_FLOAT, "presence_penalty": OPTIONAL_FLOAT,
}  # fmt: skip


def encode_openai_error(error: ApiError) -> tuple[str, bytes]:
    """Content type and body of OpenAI's error object, or of Ollama's own for an error that precedes the converter."""
    if error.always_native:
        return native_error(error)
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(error.status, "api_error")
    body = gojson.dump({"error": {"message": error.message, "type": kind, "param": None, "code": None}})
    return (JSON_UTF8, body) if error.at_binding else (JSON, body + b"\n")


def usage(finish: Finish | None) -> dict[str, int]:
    """OpenAI's three token counts; zeros without a finish."""
    prompt_tokens, output_tokens = (finish.prompt_tokens, finish.output_tokens) if finish else (0, 0)
    total_tokens = prompt_tokens + output_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens, "total_tokens": total_tokens}


def event(value: Any) -> bytes:
    """One unnamed server-sent event."""
    return b"data: " + gojson.dump(value) + b"\n\n"


def new_id(prefix: str) -> str:
    """An identifier as Ollama creates it: `chatcmpl-`, `cmpl-` and so on with a number below 999."""
    return f"{prefix}-{time.monotonic_ns() // 1000 % 999}"


def tool_call(index: int, call: ToolCall) -> dict[str, Any]:
    """OpenAI's form of a call, with its arguments as a JSON string."""
    function = {"name": call.name, "arguments": gojson.dump(call.arguments).decode()}
    return {"id": call.id, "index": index, "type": "function", "function": function}


def read_common(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a GenerationRequest that `COMMON_FIELDS` set."""
    return {
        "model": fields.get("model") or "",
        "stream": bool(fields.get("stream")),
        "num_predict": fields.get("max_tokens"),
        "seed": fields.get("seed") or 0,
        "stop": _read_stop(fields.get("stop")),
        "include_usage": bool((fields.get("stream_options") or {}).get("include_usage")),
    }


def read_effort(effort: str | None) -> bool | None:
    """Whether a reasoning effort enables thinking; None leaves the choice to the model.

    Raises ApiError for an unknown word.
    """
    if not effort:
        return None
    if effort not in _EFFORTS:
        words = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
        raise ApiError(400, f'invalid reasoning value: "{effort}" (must be {words})', at_binding=True)
    return effort != "none"


def check_image(part: Any) -> None:
    """Raises ApiError for an image part that does not contain its data in base64. Ollama never fetches one."""
    url = part.get("url") if isinstance(part, dict) else part
    if isinstance(url, str) and url.startswith(("http://", "https://")):
        message = "image URLs are not currently supported, please use base64 encoded data instead"
        raise ApiError(400, message, at_binding=True)
    head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if head not in _IMAGE_HEADS or gojson.invalid_base64_at(data) is not None:
        raise ApiError(400, "invalid image input", at_binding=True)


def _read_stop(stop: Any) -> tuple[str, ...]:
    """The stop strings of a string or a list. Ollama ignores values of other types."""
    if isinstance(stop, str):
        return (stop,)
    return tuple(item for item in stop if isinstance(item, str)) if isinstance(stop, list) else ()
