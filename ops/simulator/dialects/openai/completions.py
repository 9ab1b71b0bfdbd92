"""OpenAI's older `/v1/completions`. The prompt is a string, never a list."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Completion, Dialect, Encoder, Timing
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.gojson import OPTIONAL_INT, STRING, Struct
from ops.simulator.dialects.media_types import JSON, SSE
from ops.simulator.dialects.openai.common import (
    COMMON_FIELDS,
    DONE,
    encode_openai_error,
    event,
    new_id,
    read_common,
    usage,
)
from ops.simulator.dialects.parameters import bind, go_type_of
from ops.simulator.generation.events import Delta, Finish
from ops.simulator.generation.request import GenerationRequest, Turn

_REQUEST = Struct("CompletionRequest", {**COMMON_FIELDS, "prompt": STRING, "suffix": STRING, "logprobs": OPTIONAL_INT})


class _CompletionEncoder(Encoder):
    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._id = new_id("cmpl")
        self._created = int(time.time())

    def encode_delta(self, delta: Delta) -> Iterator[bytes]:
        """A chunk of text. Thinking is lost, but its frame is sent."""
        yield self._chunk([self._choice(delta.content, None)])

    def encode_finish(self, finish: Finish) -> Iterator[bytes]:
        """One frame with the last text chunk, the usage chunk if it is requested, and `[DONE]`."""
        yield self._end(finish.reason, finish)

    def encode_failure(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """An empty chunk with an empty model name. The message is lost."""
        yield self._chunk([self._choice("", None)], model="")

    def encode_document(self, completion: Completion, finish: Finish | None) -> bytes:
        """A `text_completion`."""
        return self._text_completion(completion.content, finish.reason if finish else None, finish)

    def encode_load(self, reason: str) -> tuple[str, list[bytes]]:
        """No text, counts of zero, and the reason `load` or `unload`."""
        if self.request.stream:
            return SSE, [self._end(reason, None)]
        return JSON, [self._text_completion("", reason, None)]

    def _end(self, reason: str, finish: Finish | None) -> bytes:
        counts = self._chunk([], counts=usage(finish)) if self.request.include_usage else b""
        return self._chunk([self._choice("", reason)]) + counts + DONE

    def _text_completion(self, text: str, reason: str | None, finish: Finish | None) -> bytes:
        head = {"id": self._id, "object": "text_completion", "created": self._created, "model": self.request.model}
        choices = [self._choice(text, reason)]
        body = {**head, "system_fingerprint": "fp_ollama", "choices": choices, "usage": usage(finish)}
        return gojson.dump(body) + b"\n"

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": 0, "finish_reason": reason}

    def _chunk(
        self, choices: list[dict[str, Any]], model: str | None = None, counts: dict[str, int] | None = None
    ) -> bytes:
        head = {"id": self._id, "object": "text_completion", "created": self._created, "choices": choices}
        model = self.request.model if model is None else model
        # With include_usage every chunk carries counts; all but the last one are zeros.
        usage_field = {"usage": counts or usage(None)} if self.request.include_usage else {}
        return event({**head, "model": model, "system_fingerprint": "fp_ollama", **usage_field})


class Completions(Dialect):
    """`POST /v1/completions`."""

    encoder = _CompletionEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises ApiError."""
        fields = bind(body, _REQUEST)
        prompt = fields.get("prompt") or ""
        turn = Turn("user", prompt + (fields.get("suffix") or ""))
        stop = fields.get("stop")
        if wrong := [item for item in stop if not isinstance(item, str)] if isinstance(stop, list) else []:
            raise ApiError(400, f"invalid type for 'stop' field: {go_type_of(wrong[0])}", at_binding=True)
        return GenerationRequest(
            endpoint="generate",
            turns=(turn,),
            load_only=not prompt,
            has_suffix=bool(fields.get("suffix")),
            **read_common(fields),
        )

    def encode_error(self, error: ApiError) -> tuple[str, bytes]:
        """OpenAI's error object."""
        return encode_openai_error(error)
