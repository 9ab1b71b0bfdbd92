"""The context that a request needs and requests, in tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.request.token_estimate import estimate_input
from gateway.values import Scope
from gateway.wire.surfaces import Dialect, Surface


def requested_context(surface: Surface, document: Mapping[str, Any]) -> int:
    """The `num_ctx` of a native request, 0 when it has none."""
    options = document.get("options")
    if surface.dialect is not Dialect.NATIVE or not isinstance(options, Mapping):
        return 0
    value = options.get("num_ctx")
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


def longest_prompt(surface: Surface, document: Mapping[str, Any], input_tokens: int) -> int:
    """The estimated tokens of the longest text of a request, whose estimate is `input_tokens` in total.

    Each text of a list to embed has a whole context.
    """
    texts = document.get("input")
    if surface.scope is not Scope.EMBEDDINGS or not isinstance(texts, list):
        return input_tokens
    if all(isinstance(item, int) for item in texts):
        return len(texts)
    return max((estimate_input({"input": item}) for item in texts), default=0)


def overflow_message(prompt_tokens: int, in_force: int, requested: int, *, is_exact: bool = False) -> str:
    """The sentence for a caller whose prompt is too long. `requested` is 0 when the request names no context."""
    about = "" if is_exact else "about "
    wish = f"; the request asks for {requested}, which needs a key with the scope 'runner'" if requested else ""
    return f"the prompt has {about}{prompt_tokens} tokens, and the context of this model has {in_force}{wish}"
