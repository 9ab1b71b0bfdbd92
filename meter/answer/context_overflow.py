"""Recognises the answer with which Ollama refuses a prompt that is longer than the context. Pure.

llama-server's own error comes as JSON within Ollama's text, with both numbers; the texts of Ollama itself have none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.record.grant import Grant
from gateway.request.context import overflow_message

# The statuses with which Ollama refuses such a prompt: /api/embeddings answers 500.
STATUSES = frozenset({400, 500})

_OVERFLOW = re.compile(
    r"exceed_context_size_error|(?:exceeds|longer than) the (?:available |maximum )?context (?:size|length)",
    re.IGNORECASE,
)
_PROMPT_TOKENS = re.compile(r'n_prompt_tokens\\*"\s*:\s*(\d{1,9})')
_CONTEXT_TOKENS = re.compile(r'n_ctx\\*"\s*:\s*(\d{1,9})')


def overflow_in(document: Mapping[str, Any] | None, grant: Grant) -> str | None:
    """The sentence for the caller when the backend's error is such a refusal, else None."""
    error = document.get("error") if document else None
    text = error.get("message") if isinstance(error, dict) else error
    if not isinstance(text, str) or not _OVERFLOW.search(text):
        return None
    prompt, context = _PROMPT_TOKENS.search(text), _CONTEXT_TOKENS.search(text)
    if prompt and context:
        return overflow_message(int(prompt[1]), int(context[1]), grant.requested_context, is_exact=True)
    if grant.context_tokens:
        return overflow_message(grant.input_estimate, grant.context_tokens, grant.requested_context)
    return "the prompt is longer than the context of this model"
