"""Takes the usage report out of a stream whose caller did not ask for one. Pure."""

from __future__ import annotations

import json

from meter.answer.framing import Frame, with_payload
from meter.frames.frame import FrameRead
from meter.frames.readers import load_object

# Ollama escapes the separators at which some clients would break a line.
_ESCAPED = {0x2028: "\\u2028", 0x2029: "\\u2029"}


def without_usage(frame: Frame, read: FrameRead) -> bytes:
    """The bytes of a server-sent event without its `usage`; nothing when the event holds nothing else."""
    if read.usage_only:
        return b""
    if b'"usage"' not in frame.data:
        return frame.raw
    document = load_object(frame.data)
    if document is None or "usage" not in document:
        return frame.raw
    del document["usage"]
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)
    # No UTF-8 can carry half of a surrogate pair, which an escape in the backend's JSON may have smuggled in.
    return with_payload(frame.raw, text.encode("utf-8", "replace"))
