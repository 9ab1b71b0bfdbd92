"""A request to generate, independent of the wire format it arrived in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

VOCABULARY_SIZE = 150_000

Endpoint = Literal["chat", "generate"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation, or one part of it, reduced to what a model would see."""

    role: str
    content: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is its JSON schema."""

    name: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to generate.

    `endpoint`: the native endpoint to which Ollama converts the request.
    `model`: the name as the caller spelled it.
    `num_predict`: the output limit in tokens; 0 and less mean no limit, None is the model's own limit. `num_ctx`: the
    context length in tokens, None for the model's own.
    `runner_options`: the other options that make Ollama launch the runner again, as sorted pairs.
    `truncate`: False if a prompt that exceeds the context must not be truncated. `shift`: False if a full context must
    not be shifted.
    `think`: None leaves the choice to the model. `relaxes_thinking`: a model that cannot think ignores it.
    `format`: "json", a JSON schema, or None for plain text.
    `top_logprobs`: alternatives per token; None omits log probabilities.
    `keep_alive_s`: None is the default.
    `load_only`: the model is loaded, or unloaded when `keep_alive_s` is 0, and nothing is generated.
    `context`: tokens of an earlier exchange that `/api/generate` continues.
    `has_suffix`: the model inserts text before a suffix. `template_error`: why the request's own template is invalid.
    `debug_render_only`: the answer is the prompt.
    `prompt_bytes`: the size from which Anthropic's `message_start` estimates the input.
    `echoed_fields`: request fields that a `response` object repeats.
    """

    endpoint: Endpoint
    model: str
    turns: tuple[Turn, ...]
    stream: bool
    num_predict: int | None = None
    num_ctx: int | None = None
    runner_options: tuple[tuple[str, object], ...] = ()
    truncate: bool | None = None
    shift: bool | None = None
    stop: tuple[str, ...] = ()
    seed: int = 0
    think: bool | None = None
    relaxes_thinking: bool = False
    tools: tuple[Tool, ...] = ()
    format: Any = None
    top_logprobs: int | None = None
    keep_alive_s: float | None = None
    load_only: bool = False
    raw: bool = False
    include_usage: bool = False
    context: tuple[int, ...] = ()
    has_suffix: bool = False
    template_error: str = ""
    debug_render_only: bool = False
    prompt_bytes: int = 0
    echoed_fields: dict[str, Any] = field(default_factory=dict)

    def output_tokens_max(self, num_ctx: int) -> int:
        """The output limit in tokens: `num_predict`, but at most ten contexts, which is also Ollama's "no limit"."""
        limit = self.num_predict or 0
        return limit if 0 < limit < 10 * num_ctx else 10 * num_ctx
