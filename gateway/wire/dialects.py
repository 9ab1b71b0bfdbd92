"""Errors in the caller's dialect, before the response headers and within a stream. Pure.

Shapes: Ollama's `{"error": "text"}` (ollama-python crashes on anything but a string), OpenAI's `{"error": {...}}`,
Anthropic's `{"type": "error", ...}`.
"""

from __future__ import annotations

import json

from gateway.errors import STATUS, Code
from gateway.wire.surfaces import Dialect

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "invalid_request_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error_object(
    dialect: Dialect, code: Code, message: str, request_id: str, *, status: int | None = None
) -> dict[str, object]:
    """The JSON object that a client library of `dialect` turns into its exception; `status` replaces that of `code`."""
    status = STATUS[code] if status is None else status
    if dialect is Dialect.NATIVE:
        return {"error": message}
    if dialect is Dialect.OPENAI:
        kind = "insufficient_quota" if code is Code.BUDGET_EXHAUSTED else _OPENAI_TYPES.get(status, "api_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": str(code)}}
    kind = _ANTHROPIC_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_body(dialect: Dialect, code: Code, message: str, request_id: str, *, status: int | None = None) -> bytes:
    """The body of an error answer, UTF-8 JSON."""
    return _dump(error_object(dialect, code, message, request_id, status=status))


def error_frame(dialect: Dialect, code: Code, message: str, request_id: str) -> bytes:
    """One frame that ends a stream whose status was 200: an NDJSON line or an SSE event."""
    body = error_body(dialect, code, message, request_id)
    if dialect is Dialect.NATIVE:
        return body + b"\n"
    if dialect is Dialect.OPENAI:
        return b"data: " + body + b"\n\n"
    return b"event: error\ndata: " + body + b"\n\n"
