"""Removes the usage report from a stream whose caller did not request one. Pure."""

from __future__ import annotations

import json
from typing import Any

from meter.answer.framing import Frame, with_payload
from meter.frames.frame import FrameRead

# Ollama escapes the separators at which some clients would break a line.
_ESCAPED = {0x2028: "\\u2028", 0x2029: "\\u2029"}


def without_usage(frame: Frame, read: FrameRead, document: dict[str, Any] | None) -> bytes:
    """The bytes of a server-sent event without its `usage`, empty when the event carries nothing else.

    `document` is the JSON object of the event, None when it has none; it is changed.
    """
    if read.usage_only:
        return b""
    if document is None or "usage" not in document:
        return frame.raw
    del document["usage"]
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)
    # UTF-8 cannot carry a lone surrogate, which an escape in the backend's JSON may contain.
    return with_payload(frame.raw, text.encode("utf-8", "replace"))
