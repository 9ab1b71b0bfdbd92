"""All error codes with their statuses and messages, and the exceptions of the gateway.

GatewayError
├── Denied            an answer for the caller: code, status, message
├── StoreUnavailable  PostgreSQL or Redis did not answer in time: try again later; always a 503, never a 401
├── DataRefused       PostgreSQL answers, and will never accept this data: never try again
├── SettingsError     an invalid setting; the process does not start
│   └── CannotListen  the address of a service is not available
├── Conflict          an operator's change contradicts what is stored
└── NotFound          an operator named something that does not exist
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The stable error codes of the contract, sent as `X-Gateway-Error`."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    INVALID_API_KEY = "invalid_api_key"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    ENDPOINT_BLOCKED = "endpoint_blocked"
    SCOPE_DENIED = "scope_denied"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    REQUEST_TOO_LARGE = "request_too_large"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    TOKEN_RATE_EXCEEDED = "token_rate_exceeded"  # noqa: S105 (an error code, no secret)
    CONCURRENCY_EXCEEDED = "concurrency_exceeded"
    BUDGET_RESERVED = "budget_reserved"
    BUDGET_EXHAUSTED = "budget_exhausted"
    QUEUE_FULL = "queue_full"
    AUTH_THROTTLED = "auth_throttled"
    BACKEND_ERROR = "backend_error"
    BACKEND_TIMEOUT = "backend_timeout"
    UNAVAILABLE = "unavailable"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    AUDIT_BACKLOG = "audit_backlog"
    QUEUE_TIMEOUT = "queue_timeout"


STATUS: dict[Code, int] = {
    Code.INVALID_REQUEST: 400,
    Code.CONTEXT_LENGTH_EXCEEDED: 400,
    Code.INVALID_API_KEY: 401,
    Code.MODEL_NOT_ALLOWED: 403,
    Code.ENDPOINT_BLOCKED: 403,
    Code.SCOPE_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.REQUEST_TOO_LARGE: 413,
    Code.RATE_LIMIT_EXCEEDED: 429,
    Code.TOKEN_RATE_EXCEEDED: 429,
    Code.CONCURRENCY_EXCEEDED: 429,
    Code.BUDGET_RESERVED: 429,
    Code.BUDGET_EXHAUSTED: 429,
    Code.QUEUE_FULL: 429,
    Code.AUTH_THROTTLED: 429,
    Code.BACKEND_ERROR: 502,
    Code.BACKEND_TIMEOUT: 504,
    Code.UNAVAILABLE: 503,
    Code.BACKEND_UNAVAILABLE: 503,
    Code.AUDIT_BACKLOG: 503,
    Code.QUEUE_TIMEOUT: 503,
}

MESSAGE: dict[Code, str] = {
    Code.INVALID_REQUEST: "the request is not valid",
    Code.CONTEXT_LENGTH_EXCEEDED: "the prompt is longer than the context of this model",
    Code.INVALID_API_KEY: "missing or invalid API key",
    # Ollama's interactive session goes on after an error that has the words "not found".
    Code.MODEL_NOT_ALLOWED: "model not found, or your key may not use it",
    Code.ENDPOINT_BLOCKED: "this endpoint is not available through the gateway",
    Code.SCOPE_DENIED: "your key may not use this endpoint",
    Code.NOT_FOUND: "not found",
    Code.METHOD_NOT_ALLOWED: "this endpoint does not answer to that method",
    Code.REQUEST_TIMEOUT: "the request took too long to arrive",
    Code.REQUEST_TOO_LARGE: "the request is larger than this gateway accepts",
    Code.RATE_LIMIT_EXCEEDED: "too many requests per minute",
    Code.TOKEN_RATE_EXCEEDED: "too many tokens per minute",
    Code.CONCURRENCY_EXCEEDED: "too many requests at once",
    Code.BUDGET_RESERVED: "what is left of the token budget is held by running requests; try again soon",
    Code.BUDGET_EXHAUSTED: "the token budget is used up",
    Code.QUEUE_FULL: "too many of your requests are waiting for a model; try again later",
    Code.AUTH_THROTTLED: "too many failed authentications from this address",
    Code.BACKEND_ERROR: "the model backend failed to answer",
    Code.BACKEND_TIMEOUT: "the model backend did not answer in time",
    Code.UNAVAILABLE: "the gateway cannot check this request at the moment",
    Code.BACKEND_UNAVAILABLE: "no backend that hosts this model is available",
    Code.AUDIT_BACKLOG: "the gateway cannot record this request at the moment",
    Code.QUEUE_TIMEOUT: "no backend had capacity for this request in time; try again later",
}


# The codes of the statuses with which a backend itself reports an error. Any other 4xx is an invalid_request, and any
# other status a backend_error. 408 and 429 are about the gateway's own requests to the backend.
_UPSTREAM_CODES: dict[int, Code] = {
    400: Code.INVALID_REQUEST,
    404: Code.NOT_FOUND,
    413: Code.REQUEST_TOO_LARGE,
    # Ollama's status for a kind of request that the model cannot answer.
    501: Code.INVALID_REQUEST,
    503: Code.BACKEND_UNAVAILABLE,
    504: Code.BACKEND_TIMEOUT,
}

LOCAL_CODES: dict[int, Code] = {
    400: Code.INVALID_REQUEST,
    403: Code.ENDPOINT_BLOCKED,
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    408: Code.REQUEST_TIMEOUT,
    413: Code.REQUEST_TOO_LARGE,
    431: Code.REQUEST_TOO_LARGE,
    # A Transfer-Encoding that Envoy does not know.
    501: Code.INVALID_REQUEST,
}
"""The codes of the statuses with which Envoy or aiohttp answers itself, before any other part sees the request."""


def upstream_code(status: int) -> Code:
    """The code of an error `status` that a backend returned."""
    other = Code.INVALID_REQUEST if 400 <= status < 500 and status not in (408, 429) else Code.BACKEND_ERROR
    return _UPSTREAM_CODES.get(status, other)


def local_code(status: int) -> Code:
    """The code of an error `status` with which Envoy or aiohttp answers itself.

    Any other failure within the gateway is an unavailable dependency and no statement about the caller.
    """
    return LOCAL_CODES.get(status) or (Code.UNAVAILABLE if status >= 500 else Code.INVALID_REQUEST)


class GatewayError(Exception):
    """The base of the exceptions that the gateway itself raises."""


class Denied(GatewayError):
    """The request is denied. The caller sees `message`, so it must not contain data of anyone else.

    `reason` is for operators: the audit row has it, and no answer does.
    """

    reason: str | None = None

    def __init__(self, code: Code, message: str | None = None, retry_after_s: int | None = None) -> None:
        self.code = code
        self.status = STATUS[code]
        self.message = message or MESSAGE[code]
        self.retry_after_s = retry_after_s
        super().__init__(f"{code}: {self.message}")


class StoreUnavailable(GatewayError):
    """PostgreSQL or Redis rejected the connection, failed or missed its deadline.

    Never a statement about the caller.
    """


class DataRefused(GatewayError):
    """PostgreSQL cannot hold this data. A retry cannot succeed; the writer has to leave the data out."""


class SettingsError(GatewayError):
    """A setting has an invalid value. The text names the setting and the expected value."""


class CannotListen(SettingsError):
    """A service cannot bind the address that it is configured to listen on."""

    def __init__(self, listen: str, reason: str) -> None:
        super().__init__(f"cannot listen on {listen}: {reason}")


class Conflict(GatewayError):
    """The requested change contradicts the stored data, such as a name that is taken. Nothing was changed."""


class NotFound(GatewayError):
    """The named object does not exist."""
