"""The name of the model in an answer, spelled as the caller spelled it. Pure.

Ollama repeats the name that it was sent, which is the backend's own spelling. Clients compare it with the one that they
sent.
"""

from __future__ import annotations

import re

from gateway.record.grant import Grant
from gateway.request.model_name import NAME_LENGTH_MAX

# The longest text that a match can have: a key, its space, and a name.
_HELD_BYTES = NAME_LENGTH_MAX + 64


class ModelSpelling:
    """Replaces the name in the bytes of one successful answer. `framed` means that each line is a separate document.

    Ollama writes the model before everything that the model generated, so the first occurrence in a document is the
    answer's own. Within a JSON string, where its quotes would be escaped, the pattern cannot occur.
    """

    def __init__(self, sent: str, requested: str, *, framed: bool) -> None:
        self._pattern = re.compile(rb'("model"\s{0,8}:\s{0,8}")%b"' % re.escape(sent).encode(), re.IGNORECASE)
        self._replacement = rb'\g<1>%b"' % requested.encode()
        self._framed = framed
        self._held = b""
        self._found = False

    @classmethod
    def of(cls, grant: Grant, *, framed: bool) -> ModelSpelling | None:
        """The replacement that `grant` requires, None when the caller spells the name as the backend does."""
        requested = grant.requested_model
        return cls(grant.sent_model, requested, framed=framed) if requested not in ("", grant.sent_model) else None

    def respell(self, data: bytes, end_of_stream: bool) -> bytes:
        """Takes the next bytes for the caller, whole frames of a stream or any piece of a whole body; returns them.

        The name in a whole body may be cut by the end of a piece, so a short rest waits for the next one.
        """
        if self._framed:
            return b"\n".join(self._pattern.sub(self._replacement, line, 1) for line in data.split(b"\n"))
        if self._found:
            return data
        data, found = self._pattern.subn(self._replacement, self._held + data, 1)
        self._found, self._held = bool(found), b""
        if not found and not end_of_stream:
            data, self._held = data[:-_HELD_BYTES], data[-_HELD_BYTES:]
        return data
