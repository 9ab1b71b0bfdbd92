"""Renders Envoy's `local_reply_config`, which writes Envoy's own replies in the caller's dialect. Pure.

Envoy identifies a local reply only by its status and response flags, so these are mapped to the codes of the error
table.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.errors import LOCAL_CODES, MESSAGE, STATUS, Code, local_code
from gateway.wire.dialects import error_object
from gateway.wire.names import ERROR_HEADER, REQUEST_ID_HEADER
from gateway.wire.surfaces import SURFACES, Dialect
from gateway.wire.timeouts import BACKEND_RETRY_S

# The dialect of each path, in which the first match wins, as in gateway.wire.surfaces.dialect_of. Malformed HTTP has no
# path, so the last entry needs none.
_PATHS: tuple[tuple[Dialect, str | None], ...] = (
    (Dialect.ANTHROPIC, r"/v1/messages([/?].*)?"),
    (Dialect.OPENAI, r"/v1/.*"),
    (Dialect.NATIVE, None),
)
_SURFACE_PATHS: tuple[tuple[Dialect, str], ...] = tuple(
    (dialect, "|".join(surface.path for surface in SURFACES if surface.dialect is dialect)) for dialect in Dialect
)

# Envoy's response flags for an unavailable backend (no healthy host, failed or broken connection, open circuit breaker,
# retries exhausted) and for a slow one. On paths without a backend they refer to our own services.
_BACKEND_FLAGS = ("UH", "UF", "UO", "URX", "UC", "UR", "LR", "UPE")
_TIMEOUT_FLAGS = ("UT", "SI")


def _expression(text: str) -> dict[str, Any]:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": text,
            },
        }
    }


# Replies of authz and the meter also pass through this configuration. They are in their final form.
_REPLY_OF_A_SERVICE = _expression(f"'{ERROR_HEADER}' in response.headers")

# Envoy assigns a request id only after it has parsed the request. An earlier reply gets a new id.
_REQUEST_ID = '%COALESCE({"operators": [{"command": "REQ", "param": "X-REQUEST-ID"}, "UNIQUE_ID"]})%'


def local_reply_config(body_bytes_max: int) -> dict[str, Any]:
    """Returns Envoy's LocalReplyConfig as JSON, with one mapper per code and dialect. The first match wins.

    `body_bytes_max` is the limit that a 413 names.
    """
    about_backends = [
        (_details("attempt_timed_out"), Code.BACKEND_TIMEOUT),
        (_details("attempt_failed"), Code.BACKEND_UNAVAILABLE),
        (_flags(_TIMEOUT_FLAGS), Code.BACKEND_TIMEOUT),
        (_flags(_BACKEND_FLAGS), Code.BACKEND_UNAVAILABLE),
    ]
    messages = {
        413: f"the body of the request is larger than {body_bytes_max} bytes, the most that this gateway accepts",
        431: "the headers of the request are larger than 32 KiB or more than 100",
    }
    by_status = [
        *((_status("EQ", status), code, messages.get(status)) for status, code in LOCAL_CODES.items()),
        # The rest of `local_code`.
        (_status("GE", 500), local_code(599), None),
        (_status("GE", 400), local_code(499), None),
    ]
    return {
        "mappers": [
            {"filter": _REPLY_OF_A_SERVICE},
            *(_mapper(when, code, None, *path) for when, code in about_backends for path in _SURFACE_PATHS),
            *(_mapper(when, code, message, *path) for when, code, message in by_status for path in _PATHS),
        ]
    }


def _details(details: str) -> dict[str, Any]:
    """Matches the answer of the hold filter to an attempt that follows a final one, see envoy/hold_response.wat."""
    return _expression(f"response.code_details == '{details}'")


def _flags(flags: tuple[str, ...]) -> dict[str, Any]:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(op: str, status: int) -> dict[str, Any]:
    comparison = {"op": op, "value": {"default_value": status, "runtime_key": "gateway.local_reply"}}
    return {"status_code_filter": {"comparison": comparison}}


def _mapper(
    when: dict[str, Any], code: Code, message: str | None, dialect: Dialect, path: str | None
) -> dict[str, Any]:
    matcher = {"name": ":path", "string_match": {"safe_regex": {"regex": path}}}
    # A percent sign starts one of Envoy's format operators, so it is doubled.
    body = error_object(dialect, code, re.sub("%", "%%", message or MESSAGE[code]), f"%RESP({REQUEST_ID_HEADER})%")
    return {
        "filter": when if path is None else {"and_filter": {"filters": [when, {"header_filter": {"header": matcher}}]}},
        "status_code": STATUS[code],
        "headers_to_add": [
            _header(ERROR_HEADER, str(code)),
            _header(REQUEST_ID_HEADER, _REQUEST_ID),
            *([_header("retry-after", str(BACKEND_RETRY_S))] if code is Code.BACKEND_UNAVAILABLE else ()),
        ],
        "body_format_override": {"json_format": body, "content_type": "application/json"},
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
