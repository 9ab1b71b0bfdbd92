"""The interface of a dialect: it reads requests, encodes answers and writes errors."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.media_types import JSON, SSE
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest


@dataclass
class Timing:
    """When an answer reached its stages, in nanoseconds of one monotonic clock."""

    started_ns: int = field(default_factory=time.monotonic_ns)
    loaded_ns: int = 0
    slot_ns: int = 0
    first_token_ns: int = 0

    def metrics(self, finish: Finish) -> dict[str, int]:
        """The durations and counts of the last native frame. A value of 0 is omitted, as Go's omitempty does.

        The time in which the request waited for a slot is in `total_duration` only.
        """
        now_ns = time.monotonic_ns()
        loaded_ns = self.loaded_ns or self.started_ns
        first_token_ns = self.first_token_ns or now_ns
        values = {
            "total_duration": now_ns - self.started_ns,
            "load_duration": loaded_ns - self.started_ns,
            "prompt_eval_count": finish.prompt_tokens,
            "prompt_eval_duration": first_token_ns - (self.slot_ns or loaded_ns),
            "eval_count": finish.output_tokens,
            "eval_duration": now_ns - first_token_ns,
        }
        return {name: value for name, value in values.items() if value}


@dataclass(slots=True)
class Completion:
    """Everything that the deltas of an answer made visible."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def add(self, delta: Delta | None) -> None:
        """Appends what one delta shows."""
        if delta is None:
            return
        self.content += delta.content
        self.thinking += delta.thinking
        self.tokens += delta.visible_tokens
        if delta.tool_call is not None:
            self.tool_calls.append(delta.tool_call)


class Encoder(ABC):
    """Encodes the answer of one request. Every `bytes` that it yields is one frame, that is one flush."""

    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        self.request = request
        self.timing = timing

    @abstractmethod
    def encode_delta(self, delta: Delta) -> Iterator[bytes]:
        """The frames of a visible step."""

    @abstractmethod
    def encode_finish(self, finish: Finish) -> Iterator[bytes]:
        """The frames of a regular end."""

    @abstractmethod
    def encode_failure(self, message: str) -> Iterator[bytes]:
        """The frames of a failure after the 200 was sent."""

    @abstractmethod
    def encode_document(self, completion: Completion, finish: Finish | None) -> bytes:
        """The whole answer as one document. `finish` is None when the repeat guard ended the answer."""

    def encode_debug(self, prompt: str) -> bytes:
        """The answer to a request that wants to see its prompt only. Ollama's own surfaces have such requests."""
        raise NotImplementedError(prompt)

    @abstractmethod
    def encode_load(self, reason: str) -> tuple[str, list[bytes]]:
        """Content type and frames of an answer that only loaded or unloaded the model."""


class Dialect(ABC):
    """A surface that generates: how it reads requests, encodes answers and writes errors."""

    stream_type: ClassVar[str] = SSE
    document_type: ClassVar[str] = JSON
    stream_headers: ClassVar[Mapping[str, str]] = {}
    encoder: ClassVar[type[Encoder]]

    @abstractmethod
    def read(self, body: bytes) -> GenerationRequest:
        """The request that the body makes. Raises ApiError."""

    @abstractmethod
    def encode_error(self, error: ApiError) -> tuple[str, bytes]:
        """Content type and body of an error."""
