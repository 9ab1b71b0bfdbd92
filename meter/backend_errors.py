"""Which words of a failing backend a caller may see. Pure.

Ollama's own sentences help the caller ("model not found", "does not support tools"). Addresses, host names, file
paths and sign-in links belong to the operator, and a body in another dialect would break the caller's client.
"""

from __future__ import annotations

import json
import re

from gateway.dialects import error_body, error_frame
from gateway.errors import MESSAGE, Code
from gateway.surfaces import Dialect
from meter.readers import load_object

# Statuses that speak of the gateway's own credentials, account or route at the backend, not of the caller's.
_NOT_THE_CALLERS = frozenset({401, 402, 403, 405, 407})

_OPERATORS_OWN = re.compile(
    r"""signin_url | https?:// | \bdial\b | \blookup\b
    | \b\d{1,3}(?:\.\d{1,3}){3}\b               # IPv4
    | \[[0-9a-f]*:[0-9a-f:.%]{1,64}\]           # IPv6 in brackets
    | [\w-]:\d{2,5}\b                           # host:port
    | (?:^|[\s"'=(:])(?:/[\w.@+-]+){3,}         # a path of the file system
    """,
    re.VERBOSE | re.IGNORECASE,
)


def caller_status(status: int) -> int:
    """The status a caller sees for a backend's non-2xx `status`: a refusal of the gateway itself is a 502."""
    return 502 if status < 400 or status in _NOT_THE_CALLERS else status


def shown_body(dialect: Dialect, status: int, body: bytes, request_id: str) -> bytes:
    """The backend's error body when the caller may see it, else the gateway's own in the caller's dialect."""
    if caller_status(status) == status and _is_presentable(dialect, body):
        return body
    return error_body(dialect, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], request_id)


def shown_frame(dialect: Dialect, raw: bytes, data: bytes, request_id: str) -> bytes:
    """The same for an error frame in mid-stream: `raw` are its bytes, `data` its payload."""
    if _is_presentable(dialect, data):
        return raw
    return error_frame(dialect, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], request_id)


def _is_presentable(dialect: Dialect, data: bytes) -> bool:
    document = load_object(data)
    if document is None:
        return False
    error = document.get("error")
    if dialect is Dialect.NATIVE:
        message, known = error, {"error"}
    else:
        message, known = (error.get("message") if isinstance(error, dict) else None), {"error", "type", "request_id"}
    if not isinstance(message, str) or not document.keys() <= known:
        return False
    # Written anew, no escape hides anything from the search.
    return not _OPERATORS_OWN.search(json.dumps(document, ensure_ascii=False))
