"""Checks the values that Ollama refuses only when the model runs, with a 500 that looks like its own failure. Pure.

Types: ollama/ollama api/types.go (Options.FromMap), llm/server.go (format).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.wire.surfaces import Dialect, Surface

NUMBERS = (
    "num_keep", "seed", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature", "repeat_penalty",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip


def check_options(surface: Surface, document: Mapping[str, Any]) -> None:
    """Raises ValueError, with a sentence for the caller, for an option or a format of the wrong type."""
    if surface.dialect is not Dialect.NATIVE:
        return
    options = document.get("options")
    if isinstance(options, Mapping):
        for name in NUMBERS:
            if not _is_number_or_null(options.get(name)):
                raise ValueError(f"the field 'options.{name}' must be a number")
        if not _is_texts_or_null(options.get("stop")):
            raise ValueError("the field 'options.stop' must be a list of strings")
    if surface.cap_field is not None and not _is_format(document.get("format")):
        raise ValueError("the field 'format' must be 'json' or a JSON schema, which is an object")


def _is_number_or_null(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_texts_or_null(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _is_format(value: object) -> bool:
    return value is None or value in ("", "json") or isinstance(value, Mapping)
