"""Reads the parts of a request body that several surfaces have in common."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.errors import ApiError

_INTEGERS = {
    "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "draft_num_predict",
}  # fmt: skip
# Together with the context length, the options with which a runner is launched.
_RUNNER_OPTIONS = {"num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}
_NUMBERS = {
    "top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty",
}  # fmt: skip
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)")
_DURATION_UNIT = re.compile(r"[^.\d]*")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def bind(body: bytes, struct: gojson.Struct, *, empty_message: str = "EOF") -> dict[str, Any]:
    """`gojson.bind` with its errors as ApiError (400). `empty_message` is the message for an empty body."""
    try:
        return gojson.bind(body, struct)
    except gojson.GoJsonError as error:
        message = str(error)
        raise ApiError(400, empty_message if message == "EOF" else message, at_binding=True) from None


def read_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a GenerationRequest that runner options set.

    Keys are exact, unknown ones are ignored, and null leaves an option unset. Numbers are truncated to int64 as Go
    truncates a float64. Raises ApiError (500) for a wrong type, as Ollama does.
    """
    fields: dict[str, Any] = {}
    for name, value in (options or {}).items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _INTEGERS:
            if not is_number:
                raise ApiError(500, f'option "{name}" must be of type integer')
            if name in ("num_predict", "num_ctx", "seed"):
                fields[name] = _int64(value)
        elif name in _NUMBERS and not is_number:
            raise ApiError(500, f'option "{name}" must be of type float32')
        elif name == "stop":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ApiError(500, 'option "stop" must be of type array')
            fields["stop"] = tuple(value)
    given = {name: value for name, value in (options or {}).items() if name in _RUNNER_OPTIONS and value is not None}
    return {**fields, "runner_options": tuple(sorted(given.items()))} if given else fields


def read_keep_alive(value: Any) -> float | None:
    """How long the model stays loaded, in seconds; negative means indefinitely, None is the default.

    Raises ApiError for a value that Go's `time.ParseDuration` rejects.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise ApiError(400, f"Unsupported type: '{go_type_of(value)}'", at_binding=True)
    sign, text = (-1.0, value[1:]) if value.startswith("-") else (1.0, value.removeprefix("+"))
    parts = _DURATION.findall(text)
    if text != "0" and (not parts or "".join(map("".join, parts)) != text):
        raise ApiError(400, f"time: {_duration_fault(text)} duration {json.dumps(value)}", at_binding=True)
    return sign * sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def go_type_of(value: Any) -> str:
    """The Go type of a decoded JSON value."""
    types: dict[type, str] = {bool: "bool", str: "string", list: "[]interface {}", dict: "map[string]interface {}"}
    return types.get(type(value), "<nil>" if value is None else "float64")


def _duration_fault(text: str) -> str:
    """What Go's `time.ParseDuration` reports about an invalid duration."""
    number = _DURATION_NUMBER.match(text)
    unit = _DURATION_UNIT.match(text, number.end()) if number else None
    if number is None or unit is None:
        return "invalid"
    return f"unknown unit {json.dumps(unit.group())} in" if unit.group() else "missing unit in"


def read_functions(tools: Any) -> list[dict[str, Any]]:
    """The `function` of each tool; missing ones are empty."""
    return [(tool or {}).get("function") or {} for tool in tools or ()]


def _int64(value: float) -> int:
    whole = math.trunc(value)
    return whole if -(2**63) <= whole < 2**63 else -(2**63)
