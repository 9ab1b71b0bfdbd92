"""The prompt of a request: its text, its length in tokens, and how Ollama shortens one that exceeds the context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ops.simulator.generation.request import GenerationRequest, Turn
from ops.simulator.generation.text import count_tokens, tokenise

IMAGE_TOKENS = 256
NUM_KEEP = 4
"""Ollama's default for the option `num_keep`: tokens at the beginning of a prompt that survive its truncation."""
ANSWER_MARKER = "<|a>"


class ContextExceeded(Exception):
    """The prompt is longer than the context, and the request forbids that it is truncated."""

    def __init__(self, prompt_tokens: int, num_ctx: int) -> None:
        super().__init__(prompt_tokens, num_ctx)
        self.prompt_tokens = prompt_tokens
        self.num_ctx = num_ctx


class ContextNotShiftable(Exception):
    """The prompt is longer than the context, and its runner was launched without context shift."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that fits its context. `tokens` is the number that Ollama reports as `prompt_eval_count`."""

    text: str
    tokens: int


def fit_prompt(request: GenerationRequest, num_ctx: int) -> Prompt:
    """The prompt that the model evaluates.

    A chat loses its oldest messages, except those of the role `system` and the last one, until it fits. A prompt that
    still does not fit loses tokens after the first `num_keep`, so that about half of the context is free. Source:
    `chatPrompt` in `server/prompt.go` and `completionPromptForRequest` in `llm/llama_server.go` of Ollama.

    Raises ContextExceeded for a request with `truncate: false`, ContextNotShiftable for one with `shift: false`.
    """
    prompt = render(request)
    if request.truncate is False:
        if prompt.tokens >= num_ctx:
            raise ContextExceeded(prompt.tokens, num_ctx)
        return prompt
    if prompt.tokens > num_ctx and request.endpoint == "chat":
        prompt = _without_old_turns(request, num_ctx)
    if prompt.tokens <= num_ctx - 1:
        return prompt
    if request.shift is False:
        raise ContextNotShiftable
    return _truncate(prompt, num_ctx)


def render(request: GenerationRequest) -> Prompt:
    """The text of the tools and of every turn, each turn after a mark of four tokens, or without marks when raw.

    An image counts as 256 tokens. The prompt of a continued `/api/generate` begins with the tokens of `context`.
    """
    tools = "".join(tool.name + json.dumps(tool.parameters) for tool in request.tools)
    turns = "".join((("" if request.raw else _marker(turn.role)) + turn.content) for turn in request.turns)
    images = IMAGE_TOKENS * sum(turn.images for turn in request.turns)
    text = tools + turns
    return Prompt(text, max(1, count_tokens(text) + images + len(request.context)))


def _without_old_turns(request: GenerationRequest, num_ctx: int) -> Prompt:
    turns: Sequence[Turn] = request.turns
    prompt = render(request)
    for first in range(1, len(turns)):
        system = tuple(turn for turn in turns[:first] if turn.role == "system")
        prompt = render(replace(request, turns=(*system, *turns[first:])))
        if prompt.tokens <= num_ctx:
            break
    return prompt


def _truncate(prompt: Prompt, num_ctx: int) -> Prompt:
    # The tokenizer of the simulated models adds a token at the beginning, which is kept too.
    kept = min(NUM_KEEP + 1, num_ctx - 1)
    limit = num_ctx - max((num_ctx - kept) // 2, 1)
    tokens = list(tokenise(prompt.text))
    text = "".join(tokens[:kept] + tokens[max(kept, len(tokens) - (limit - kept)) :])
    return Prompt(text, limit)


def _marker(role: str) -> str:
    initial = role[:1]
    return f"<|{initial if initial.isascii() and initial.isalpha() else '-'}>"
