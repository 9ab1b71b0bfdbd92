"""What the surfaces have in common: reading requests, writing events as frames, and errors."""

from __future__ import annotations

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ops.simulator.dialects import gojson
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest

JSON_UTF8 = "application/json; charset=utf-8"
JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

_INTEGERS = {
    "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "draft_num_predict",
}  # fmt: skip
_NUMBERS = {
    "top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty",
}  # fmt: skip
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Refusal(Exception):
    """The request is answered with an error; `flat` errors keep the native shape on every surface, `bound` ones
    come from the code that reads the body and carry a charset."""

    def __init__(self, status: int, message: str, *, flat: bool = False, bound: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.flat = flat
        self.bound = bound
        self.extra: dict[str, Any] = {}
        self.headers: Mapping[str, str] = {}


@dataclass
class Timing:
    """When an answer reached its stages, in nanoseconds of one monotonic clock."""

    started: int = field(default_factory=time.monotonic_ns)
    loaded: int = 0
    first_token: int = 0

    def metrics(self, finish: Finish) -> dict[str, int]:
        """The durations and counts of a last native frame; a count of 0 is left out, as Go's omitempty does."""
        now = time.monotonic_ns()
        loaded = self.loaded or self.started
        first = self.first_token or now
        values = {
            "total_duration": now - self.started,
            "load_duration": loaded - self.started,
            "prompt_eval_count": finish.prompt_tokens,
            "prompt_eval_duration": first - loaded,
            "eval_count": finish.output_tokens,
            "eval_duration": now - first,
        }
        return {name: value for name, value in values.items() if value}


@dataclass(slots=True)
class Said:
    """A whole answer: everything its pieces showed."""

    content: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def add(self, delta: Delta | None) -> None:
        """Appends what one piece shows."""
        if delta is None:
            return
        self.content += delta.content
        self.thinking += delta.thinking
        self.tokens += delta.visible_tokens
        if delta.tool_call is not None:
            self.calls.append(delta.tool_call)


class Encoder(ABC):
    """Writes one answer; made anew for each request. Every `bytes` it yields is one flush."""

    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        self.request = request
        self.timing = timing

    @abstractmethod
    def piece(self, delta: Delta) -> Iterator[bytes]:
        """The frames of a visible step."""

    @abstractmethod
    def finish(self, finish: Finish) -> Iterator[bytes]:
        """The frames of a regular end."""

    @abstractmethod
    def broken(self, message: str) -> Iterator[bytes]:
        """The frames of a failure after the 200 was sent."""

    @abstractmethod
    def whole(self, said: Said, finish: Finish | None) -> bytes:
        """The answer as one document; without a finish when the repeat guard ended it."""

    @abstractmethod
    def idle(self, reason: str) -> tuple[str, list[bytes]]:
        """Content type and frames of an answer that only loaded or unloaded the model."""


class Dialect(ABC):
    """A generating surface: how it reads, refuses and writes."""

    stream_type: ClassVar[str] = SSE
    whole_type: ClassVar[str] = JSON
    stream_headers: ClassVar[Mapping[str, str]] = {}
    encoder: ClassVar[type[Encoder]]

    @abstractmethod
    def read(self, body: bytes) -> GenerationRequest:
        """What the body asks for. Raises Refusal."""

    @abstractmethod
    def refusal(self, refusal: Refusal) -> tuple[str, bytes]:
        """Content type and body of an error."""


def bind(body: bytes, struct: gojson.Struct, *, empty: str = "EOF") -> dict[str, Any]:
    """`gojson.bind`, its errors as a 400; `empty` is the text for a body that is not there. Raises Refusal."""
    try:
        return gojson.bind(body, struct)
    except gojson.GoJsonError as error:
        text = str(error)
        raise Refusal(400, empty if text == "EOF" else text, bound=True) from None


def native_refusal(refusal: Refusal) -> tuple[str, bytes]:
    """Ollama's own error shape: `error` is a string."""
    return JSON_UTF8, gojson.dump({"error": refusal.message, **refusal.extra})


def read_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The request fields that runner options set. Keys are exact, unknown ones ignored, null is unset; numbers
    are cut to int64 as Go cuts a float64. Raises Refusal (500) for a wrong type, as Ollama does."""
    asked: dict[str, Any] = {}
    for name, value in (options or {}).items():
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _INTEGERS:
            if not number:
                raise Refusal(500, f'option "{name}" must be of type integer')
            if name in ("num_predict", "num_ctx", "seed"):
                asked[name] = _int64(value)
        elif name in _NUMBERS and not number:
            raise Refusal(500, f'option "{name}" must be of type float32')
        elif name == "stop":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise Refusal(500, 'option "stop" must be of type array')
            asked["stop"] = tuple(value)
    return asked


def read_keep_alive(value: Any) -> float | None:
    """Seconds to stay loaded; negative is for ever, None the default. Raises Refusal for what Go cannot parse."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise Refusal(400, f"Unsupported type: '{type(value).__name__}'", bound=True)
    sign, text = (-1.0, value[1:]) if value.startswith("-") else (1.0, value.removeprefix("+"))
    parts = _DURATION.findall(text)
    if text != "0" and (not parts or "".join(map("".join, parts)) != text):
        raise Refusal(400, f'time: invalid duration "{value}"', bound=True)
    return sign * sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def log_probabilities(tokens: Iterable[str], top: int) -> list[dict[str, Any]]:
    """Invented but well-formed log probabilities, `top` alternatives each."""
    rows = []
    for token in tokens:
        row = _log_probability(token, -0.0123)
        if top:
            others = [_log_probability(f" {word}", -4.9 - at) for at, word in enumerate(_ALTERNATIVES[: top - 1])]
            row["top_logprobs"] = [dict(row), *others]
        rows.append(row)
    return rows


def new_id(prefix: str) -> str:
    """An identifier as Ollama mints them: `chatcmpl-`, `cmpl-` and so on with a number below 999."""
    return f"{prefix}-{time.monotonic_ns() // 1000 % 999}"


_ALTERNATIVES = (
    "a", "the", "one", "it", "this", "that", "an", "all", "some", "any", "each", "no", "our", "more", "most", "both",
    "such", "what", "other",
)  # fmt: skip


def _log_probability(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


def _int64(value: float) -> int:
    whole = math.trunc(value)
    return whole if -(2**63) <= whole < 2**63 else -(2**63)
