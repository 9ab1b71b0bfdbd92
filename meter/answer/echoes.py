"""Values of the request that Ollama repeats in its answer, as the caller sent them. Pure.

Ollama repeats what the gateway sent: the backend's own spelling of the model's name, with which clients compare theirs,
and on /v1/responses the granted output cap, which is not the caller's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gateway.record.grant import Grant
from gateway.request.model_name import NAME_LENGTH_MAX

# More than the longest text that a match can have: a key, its space, and a name.
_HELD_BYTES = NAME_LENGTH_MAX + 64
_CAP_FIELD = "max_output_tokens"
# The values of a model's name are the same in many requests. A caller may write a name in many spellings.
_VALUES_MAX = 256


@dataclass(frozen=True, slots=True)
class _Value:
    """What replaces one value: by its pattern, and in the spelling that Ollama writes, without a space.

    A search for the usual spelling is much faster than one for the pattern.
    """

    pattern: re.Pattern[bytes]
    replacement: bytes
    key: bytes
    usual: bytes
    usual_replacement: bytes


@lru_cache(_VALUES_MAX)
def _value(field: str, sent: str, requested: str) -> _Value:
    name, found, shown = field.encode(), sent.encode(), requested.encode()
    pattern = rb'("%b"\s{0,8}:\s{0,8})%b(?=\s{0,8}[,}])' % (name, re.escape(found))
    return _Value(
        re.compile(pattern, re.IGNORECASE),
        rb"\g<1>%b" % shown,
        b'"%b"' % name,
        b'"%b":%b,' % (name, found),
        b'"%b":%b,' % (name, shown),
    )


class Echo:
    """Replaces one value in the bytes of one successful answer. `framed` means that each line is a separate document.

    `sent` and `requested` are JSON texts. Ollama writes the value before everything that the model generated, or
    outside of it, so the first occurrence in a document is the answer's own. Within a JSON string, where its quotes
    would be escaped, the pattern cannot occur.
    """

    def __init__(self, field: str, sent: str, requested: str, *, framed: bool) -> None:
        self._value = _value(field, sent, requested)
        self._framed = framed
        self._held = b""
        self._found = False

    def restore(self, data: bytes, end_of_stream: bool) -> bytes:
        """Takes the next bytes for the caller, whole frames of a stream or any piece of a whole body; returns them.

        The value in a whole body may be cut by the end of a piece, so a short rest waits for the next one.
        """
        if self._found:
            return data
        value, data, self._held = self._value, self._held + data, b""
        start = data.find(value.usual)
        # One line, perhaps with the blank one of an event, or a whole body.
        is_one = not self._framed or (data.endswith(b"\n") and data.find(b"\n", 0, -2) < 0)
        # The pattern also matches other spellings of the key, so the first occurrence must not be one of them.
        if start >= 0 and is_one and value.key not in data[:start].lower():
            self._found = not self._framed
            return data[:start] + value.usual_replacement + data[start + len(value.usual) :]
        if self._framed:
            return b"\n".join([value.pattern.sub(value.replacement, line, 1) for line in data.split(b"\n")])
        data, found = value.pattern.subn(value.replacement, data, 1)
        self._found = bool(found)
        if not found and not end_of_stream:
            data, self._held = data[:-_HELD_BYTES], data[-_HELD_BYTES:]
        return data


def echoes_of(grant: Grant, *, framed: bool) -> tuple[Echo, ...]:
    """The values that the answer to the request of `grant` repeats and that differ from those of the caller."""
    echoes = []
    if grant.requested_model not in ("", grant.sent_model):
        echoes.append(Echo("model", f'"{grant.sent_model}"', f'"{grant.requested_model}"', framed=framed))
    if grant.surface == "v1_responses" and grant.requested_cap != grant.output_cap:
        requested = "null" if grant.requested_cap is None else str(grant.requested_cap)
        echoes.append(Echo(_CAP_FIELD, str(grant.output_cap), requested, framed=framed))
    return tuple(echoes)
