"""The surfaces that reach a model, with the quirks of each: authz, the meter and Envoy's routes all follow this table.

An endpoint that is not in this table is never proxied.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.values import Scope


class Dialect(StrEnum):
    """The API whose error shapes and stream frames a caller expects."""

    NATIVE = "native"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Surface:
    """One generating endpoint.

    `cap_field` is the path of the output cap in the request body, None where nothing is generated.
    `streams_by_default` is the meaning of an absent or null `stream`; None: the surface never streams.
    `ignored_cap_field` is a second cap that clients set and Ollama ignores. `usage_on_request` means that a stream
    reports usage only when `stream_options.include_usage` requests it. `done_marker` means that a stream ends with the
    event `[DONE]`.
    """

    name: str
    path: str
    dialect: Dialect
    scope: Scope
    cap_field: tuple[str, ...] | None
    streams_by_default: bool | None
    ignored_cap_field: str | None = None
    usage_on_request: bool = False
    done_marker: bool = False


_NUM_PREDICT = ("options", "num_predict")

SURFACES: tuple[Surface, ...] = (
    Surface("chat", "/api/chat", Dialect.NATIVE, Scope.CHAT, _NUM_PREDICT, True),
    Surface("generate", "/api/generate", Dialect.NATIVE, Scope.CHAT, _NUM_PREDICT, True),
    Surface("embed", "/api/embed", Dialect.NATIVE, Scope.EMBEDDINGS, None, None),
    Surface("embeddings", "/api/embeddings", Dialect.NATIVE, Scope.EMBEDDINGS, None, None),
    Surface(
        "v1_chat",
        "/v1/chat/completions",
        Dialect.OPENAI,
        Scope.CHAT,
        ("max_tokens",),
        False,
        ignored_cap_field="max_completion_tokens",
        usage_on_request=True,
        done_marker=True,
    ),
    Surface(
        "v1_completions",
        "/v1/completions",
        Dialect.OPENAI,
        Scope.CHAT,
        ("max_tokens",),
        False,
        usage_on_request=True,
        done_marker=True,
    ),
    Surface("v1_embeddings", "/v1/embeddings", Dialect.OPENAI, Scope.EMBEDDINGS, None, None),
    Surface("v1_responses", "/v1/responses", Dialect.OPENAI, Scope.CHAT, ("max_output_tokens",), False),
    Surface("v1_messages", "/v1/messages", Dialect.ANTHROPIC, Scope.CHAT, ("max_tokens",), False),
)

BY_PATH: dict[str, Surface] = {surface.path: surface for surface in SURFACES}
BY_NAME: dict[str, Surface] = {surface.name: surface for surface in SURFACES}


def dialect_of(path: str) -> Dialect:
    """The dialect of errors for `path`, which need not be the path of a surface."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Dialect.ANTHROPIC
    if path.startswith("/v1/"):
        return Dialect.OPENAI
    return Dialect.NATIVE
