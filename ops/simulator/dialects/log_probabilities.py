"""Invented but well-formed log probabilities of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_ALTERNATIVES = (
    "a", "the", "one", "it", "this", "that", "an", "all", "some", "any", "each", "no", "our", "more", "most", "both",
    "such", "what", "other",
)  # fmt: skip


def log_probabilities(tokens: Iterable[str], top_logprobs: int) -> list[dict[str, Any]]:
    """One row for each token, with `top_logprobs` alternatives unless that is 0."""
    rows = []
    for token in tokens:
        row = _log_probability(token, -0.0123)
        if top_logprobs:
            words = _ALTERNATIVES[: top_logprobs - 1]
            others = [_log_probability(f" {word}", -4.9 - rank) for rank, word in enumerate(words)]
            row["top_logprobs"] = [dict(row), *others]
        rows.append(row)
    return rows


def _log_probability(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}
