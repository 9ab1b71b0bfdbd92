"""The endpoints that reach a model, in one table: authz, meter and the check of Envoy's routes read it. Pure.

A path that is not in this table is never proxied. Everything in which one surface differs from another is a field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.values import Scope


class Dialect(StrEnum):
    """The family of error shapes and stream frames that a client expects."""

    NATIVE = "native"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class AnswerShape(StrEnum):
    """The JSON shape of a surface's frames and whole answers. `meter.frames.readers` has a reader for each."""

    NATIVE_CHAT = "native_chat"
    NATIVE_GENERATE = "native_generate"
    NATIVE_EMBED = "native_embed"
    NATIVE_EMBEDDINGS = "native_embeddings"
    OPENAI_CHAT = "openai_chat"
    OPENAI_COMPLETIONS = "openai_completions"
    OPENAI_EMBEDDINGS = "openai_embeddings"
    OPENAI_RESPONSES = "openai_responses"
    ANTHROPIC_MESSAGES = "anthropic_messages"


class RunnerField(StrEnum):
    """The fields at the top level of a request that affect the model's runner, and so all users of the model."""

    KEEP_ALIVE = "keep_alive"
    SHIFT = "shift"
    DEBUG_RENDER_ONLY = "_debug_render_only"


_ALL_RUNNER_FIELDS = frozenset(RunnerField)


@dataclass(frozen=True, slots=True)
class Surface:
    """One endpoint that reaches a model; its method is POST.

    `cap_field` is the path of the output cap in the request body, None where nothing is generated.
    `cap_required` means that Ollama refuses a request without a positive cap.
    `ignored_cap_field` is a second cap that clients set and Ollama ignores: authz grants the lower of the two.
    `streams_by_default` is the meaning of an absent or null `stream`; None: the surface never streams.
    `usage_on_request` means that a stream reports usage only when `stream_options.include_usage` requests it.
    `runner_fields` are the runner's fields that Ollama reads on this surface; it ignores the others.
    `truncates` means that Ollama reads `truncate`, which decides whether it cuts or refuses a prompt that is too long.
    `templates_prompt` means that Ollama writes a template around `prompt`.
    `done_marker` means that a stream ends with the event `[DONE]`, because it has no last JSON event.
    """

    name: str
    path: str
    dialect: Dialect
    scope: Scope
    answer_shape: AnswerShape
    cap_field: tuple[str, ...] | None = None
    cap_required: bool = False
    ignored_cap_field: str | None = None
    streams_by_default: bool | None = None
    usage_on_request: bool = False
    done_marker: bool = False
    runner_fields: frozenset[RunnerField] = frozenset()
    truncates: bool = False
    templates_prompt: bool = False


SURFACES: tuple[Surface, ...] = (
    Surface(
        "chat", "/api/chat", Dialect.NATIVE, Scope.CHAT, AnswerShape.NATIVE_CHAT,
        cap_field=("options", "num_predict"), streams_by_default=True, runner_fields=_ALL_RUNNER_FIELDS,
        truncates=True,
    ),
    Surface(
        "generate", "/api/generate", Dialect.NATIVE, Scope.CHAT, AnswerShape.NATIVE_GENERATE,
        cap_field=("options", "num_predict"), streams_by_default=True, runner_fields=_ALL_RUNNER_FIELDS,
        truncates=True, templates_prompt=True,
    ),
    Surface(
        "embed", "/api/embed", Dialect.NATIVE, Scope.EMBEDDINGS, AnswerShape.NATIVE_EMBED,
        runner_fields=frozenset({RunnerField.KEEP_ALIVE}), truncates=True,
    ),
    Surface(
        "embeddings", "/api/embeddings", Dialect.NATIVE, Scope.EMBEDDINGS, AnswerShape.NATIVE_EMBEDDINGS,
        runner_fields=frozenset({RunnerField.KEEP_ALIVE}),
    ),
    Surface(
        "v1_chat", "/v1/chat/completions", Dialect.OPENAI, Scope.CHAT, AnswerShape.OPENAI_CHAT,
        cap_field=("max_tokens",), ignored_cap_field="max_completion_tokens", streams_by_default=False,
        usage_on_request=True, done_marker=True,
        runner_fields=frozenset({RunnerField.DEBUG_RENDER_ONLY}),
    ),
    Surface(
        "v1_completions", "/v1/completions", Dialect.OPENAI, Scope.CHAT, AnswerShape.OPENAI_COMPLETIONS,
        cap_field=("max_tokens",), streams_by_default=False, usage_on_request=True, done_marker=True,
        runner_fields=frozenset({RunnerField.DEBUG_RENDER_ONLY}), templates_prompt=True,
    ),
    Surface("v1_embeddings", "/v1/embeddings", Dialect.OPENAI, Scope.EMBEDDINGS, AnswerShape.OPENAI_EMBEDDINGS),
    Surface(
        "v1_responses", "/v1/responses", Dialect.OPENAI, Scope.CHAT, AnswerShape.OPENAI_RESPONSES,
        cap_field=("max_output_tokens",), streams_by_default=False,
    ),
    Surface(
        "v1_messages", "/v1/messages", Dialect.ANTHROPIC, Scope.CHAT, AnswerShape.ANTHROPIC_MESSAGES,
        cap_field=("max_tokens",), cap_required=True, streams_by_default=False,
    ),
)  # fmt: skip

BY_PATH: dict[str, Surface] = {surface.path: surface for surface in SURFACES}
BY_NAME: dict[str, Surface] = {surface.name: surface for surface in SURFACES}


def plain_path(target: str) -> str:
    """The path of a request target, without query and without the slash that some clients append."""
    path = target.partition("?")[0]
    return path[:-1] if path.endswith("/") and path != "/" else path


def dialect_of(path: str) -> Dialect:
    """The dialect of an error for `path`, also for paths that are not in the table."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Dialect.ANTHROPIC
    if path.startswith("/v1/"):
        return Dialect.OPENAI
    return Dialect.NATIVE
