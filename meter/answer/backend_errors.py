"""Decides which error texts of a failing backend a caller may see. Pure.

Ollama's own sentences help the caller ("model not found", "does not support tools"). Addresses, host names, file
paths and sign-in links belong to the operator, and a body in another dialect would break the caller's client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from gateway.errors import MESSAGE, Code, upstream_code
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import Dialect

# Statuses about the gateway's own credentials, account or route at the backend, not about the caller's.
_GATEWAY_FAULT_STATUSES = frozenset({401, 402, 403, 405, 407})
_STATUS_MAX = max(HTTPStatus)

_OPERATORS_OWN = re.compile(
    r"""signin_url | localhost | \w:// | \b(?:dial|lookup|getaddrinfo|resolve|x509|certificate|host)\b
    | (?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)       # IPv4
    | \[[0-9a-f:.]*:[^\]\s]{0,64}\]                 # IPv6 in brackets
    | (?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]     # IPv6
    | [\w-]:\d{2,5}\b                               # host:port
    | (?<![\w.-])(?-i:(?:[a-z0-9_-]+\.){2,}[a-z]{2,}) # a name with a domain; fields of Go's structs are CamelCase
    | (?:^|[\s"'=(:~])/(?!(?:api|v1)/)[\w.@+-]+/\S  # a path of the file system
    | \b[a-z]:[\\/]                                 # with a drive
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|(.))")


def caller_status(status: int) -> int:
    """The status for the caller when a backend answers with the error `status`.

    502 if it rejects the gateway, or if the status is none of HTTP, such as NOT_AN_ANSWER.
    """
    return 502 if not 400 <= status <= _STATUS_MAX or status in _GATEWAY_FAULT_STATUSES else status


def sanitised_body(
    dialect: Dialect, status: int, body: bytes, document: dict[str, Any] | None, request_id: str
) -> bytes:
    """The backend's error body when the caller may see it, else the gateway's own in the caller's dialect.

    Both have the code of the status, and the gateway's request id. `document` is the JSON object in `body`, None when
    there is none.
    """
    code = upstream_code(caller_status(status))
    if caller_status(status) != status or document is None or not _is_presentable(dialect, document):
        return error_body(dialect, code, MESSAGE[code], request_id)
    if dialect is Dialect.NATIVE:
        return body
    own = {"error": {**document["error"], "code": code}} if dialect is Dialect.OPENAI else {"request_id": request_id}
    # UTF-8 cannot carry a lone surrogate, which an escape in the backend's JSON may contain.
    return json.dumps({**document, **own}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def sanitised_message(dialect: Dialect, message: str, document: Mapping[str, Any] | None) -> str:
    """The backend's error text in mid-stream when the caller may see it, else the gateway's own.

    `document` is the JSON object of the frame that reports the error.
    """
    is_foreign = document is not None and "error" in document and not _is_presentable(dialect, document)
    return MESSAGE[Code.BACKEND_ERROR] if is_foreign or _leaks_internals(message) else message


def _is_presentable(dialect: Dialect, document: Mapping[str, Any]) -> bool:
    error = document.get("error")
    if dialect is Dialect.NATIVE:
        message, known = error, {"error"}
    else:
        message, known = (error.get("message") if isinstance(error, dict) else None), {"error", "type", "request_id"}
    if not isinstance(message, str) or not document.keys() <= known:
        return False
    return not any(map(_leaks_internals, _strings(document)))


def _strings(document: Mapping[str, Any]) -> Iterator[str]:
    """Every key and every string."""
    waiting: list[object] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += (*value.keys(), *value.values())
        elif isinstance(value, list):
            waiting += value


def _leaks_internals(text: str) -> bool:
    """Searches the text and any JSON text within it, which is how llama-server's own errors arrive."""
    if _OPERATORS_OWN.search(text):
        return True
    return "\\" in text and _OPERATORS_OWN.search(_ESCAPE.sub(_unescaped, text)) is not None


def _unescaped(escape: re.Match[str]) -> str:
    if escape[1]:
        return chr(int(escape[1], 16))
    return " " if escape[2] in "nrtbf" else escape[2]
