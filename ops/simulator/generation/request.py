"""A request to generate, independent of the wire format it arrived in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from ops.simulator.generation.text import count_tokens

NUM_CTX = 4096
IMAGE_TOKENS = 256
TURN_TOKENS = 4
NUM_CTX_MIN = 4

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
    `num_predict`: the output limit in tokens; 0 and less mean no limit. `num_ctx`: the context length in tokens.
    `think`: None leaves the choice to the model.
    `format`: "json", a JSON schema, or None for plain text.
    `top_logprobs`: alternatives per token; None omits log probabilities.
    `keep_alive_s`: None is the default.
    `load_only`: the model is loaded, or unloaded when `keep_alive_s` is 0, and nothing is generated.
    `context_tokens`: tokens of an earlier exchange that `/api/generate` continues.
    `prompt_bytes`: the size from which Anthropic's `message_start` estimates the input.
    `echoed_fields`: request fields that a `response` object repeats.
    """

    endpoint: Endpoint
    model: str
    turns: tuple[Turn, ...]
    stream: bool
    num_predict: int = -1
    num_ctx: int = NUM_CTX
    stop: tuple[str, ...] = ()
    seed: int = 0
    think: bool | None = None
    tools: tuple[Tool, ...] = ()
    format: Any = None
    top_logprobs: int | None = None
    keep_alive_s: float | None = None
    load_only: bool = False
    raw: bool = False
    include_usage: bool = False
    context_tokens: int = 0
    prompt_bytes: int = 0
    echoed_fields: dict[str, Any] = field(default_factory=dict)

    @property
    def output_tokens_max(self) -> int:
        """The output limit in tokens: `num_predict`, but at most ten contexts, which is also Ollama's "no limit"."""
        ceiling = 10 * max(self.num_ctx, NUM_CTX_MIN)
        return self.num_predict if 0 < self.num_predict < ceiling else ceiling


def count_prompt_tokens(request: GenerationRequest) -> int:
    """Tokens of the prompt, at least 1 and at most a context.

    The prompt is its text, four tokens per turn (none when raw), 256 per image, and the tools.
    """
    turns = sum(count_tokens(turn.content) + IMAGE_TOKENS * turn.images for turn in request.turns)
    template = 0 if request.raw else TURN_TOKENS * len(request.turns)
    tools = sum(count_tokens(tool.name + json.dumps(tool.parameters)) for tool in request.tools)
    return max(1, min(turns + template + tools + request.context_tokens, request.num_ctx))
