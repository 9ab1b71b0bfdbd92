"""The frame that ends a stream after its status has gone out, in the shape that the surface's clients raise. Pure.

Shapes: `gateway.wire.dialects`, and for /v1/responses the event `response.failed` of the OpenAI Responses API, which
continues the numbering of the events and repeats the response object. A client of that surface ignores another event.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.errors import Code
from gateway.wire.dialects import error_frame
from gateway.wire.surfaces import AnswerShape, Surface


class FailureFrame:
    """Call `observe` with each frame of the stream, and `build` when it fails."""

    def __init__(self, surface: Surface, request_id: str) -> None:
        self._surface = surface
        self._request_id = request_id
        self._is_responses = surface.answer_shape is AnswerShape.OPENAI_RESPONSES
        self._next_number = 0
        self._response: dict[str, Any] = {"object": "response", "output": []}

    def observe(self, document: dict[str, Any] | None) -> None:
        """Takes the JSON object of a frame that passes."""
        if not self._is_responses or document is None:
            return
        number, response = document.get("sequence_number"), document.get("response")
        if type(number) is int:
            self._next_number = number + 1
        if isinstance(response, dict):
            self._response = response

    def build(self, message: str) -> bytes:
        """The bytes of the frame."""
        if not self._is_responses:
            return error_frame(self._surface.dialect, Code.BACKEND_ERROR, message, self._request_id)
        response = {**self._response, "status": "failed", "error": {"code": Code.BACKEND_ERROR, "message": message}}
        event = {"type": "response.failed", "sequence_number": self._next_number, "response": response}
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        # UTF-8 cannot carry a lone surrogate, which an escape in the backend's JSON may contain.
        return b"event: response.failed\ndata: " + text.encode("utf-8", "replace") + b"\n\n"
