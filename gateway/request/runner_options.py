"""The options of a model's runner: their values, and the requests that would be others without them. Pure.

Without the scope `runner` the gateway drops these options, which affect all users of a model. Without most of them only
the speed of an answer differs, or the time for which the model stays in memory. A few decide what the request is: an
unload would become a load, and a rendered template a generation.

Values: ollama/ollama api/types.go (Duration, GenerateRequest, ChatRequest) and server/routes.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.wire.surfaces import RunnerField, Surface

# Each of these makes Ollama reload, keep or unload the model for all its users, or shows the rendered system prompt.
RUNNER_FIELDS = tuple(RunnerField)
# Those in the second line belong to Ollama releases before 0.30.
RUNNER_OPTIONS = (
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict",
    "numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock",
)  # fmt: skip

# Go's time.ParseDuration.
_DURATION_CHARACTERS_MAX = 64
_DURATION = re.compile(r"([+-]?)(?:0|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FOREVER_S = float("inf")

_PROMPTS = ("messages", "prompt", "input")


def decisive_option(surface: Surface, document: Mapping[str, Any]) -> str | None:
    """The name of a runner option without which this would be another request, None when there is none.

    Raises ValueError, with a sentence for the caller, for a value that Ollama refuses.
    """
    if document.keys().isdisjoint(RUNNER_FIELDS):
        return None
    keep_alive_s = _read_keep_alive(document) if RunnerField.KEEP_ALIVE in surface.runner_fields else None
    flags = {
        field: _read_flag(field, document)
        for field in (RunnerField.SHIFT, RunnerField.DEBUG_RENDER_ONLY)
        if field in surface.runner_fields
    }
    if flags.get(RunnerField.DEBUG_RENDER_ONLY):
        return RunnerField.DEBUG_RENDER_ONLY
    # Without a shift Ollama refuses a prompt that is too long, and otherwise it cuts the prompt.
    if flags.get(RunnerField.SHIFT) is False:
        return RunnerField.SHIFT
    # Ollama reads less than a second as none.
    if keep_alive_s is not None and keep_alive_s < 1 and not any(document.get(name) for name in _PROMPTS):
        return RunnerField.KEEP_ALIVE
    return None


def _read_flag(field: RunnerField, document: Mapping[str, Any]) -> bool | None:
    value = document.get(field)
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"the field '{field}' must be true or false")


def _read_keep_alive(document: Mapping[str, Any]) -> float | None:
    """The seconds for which the model stays in memory, infinity for a negative time, None when it is absent or null."""
    value = document.get(RunnerField.KEEP_ALIVE)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if value >= 0 else _FOREVER_S
    is_short = isinstance(value, str) and len(value) <= _DURATION_CHARACTERS_MAX
    match = _DURATION.fullmatch(value) if is_short else None
    if match is None:
        raise ValueError("the field 'keep_alive' must be a number of seconds or a duration such as '5m' or '1h30m'")
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(value))
    return _FOREVER_S if match[1] == "-" and seconds else seconds
