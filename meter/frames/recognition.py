"""Recognises an answer of a surface by the member that every answer of it has. Pure.

Without it a page, an error object or an answer of another surface would pass under 200. The hold filter has the same
table (`$SURFACES` of envoy/hold_response.wat) and makes the same check before any byte reaches the caller.

Shapes: ollama/ollama api/types.go, openai/openai.go, openai/responses.go, anthropic/anthropic.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.wire.surfaces import AnswerShape


@dataclass(frozen=True, slots=True)
class Member:
    """The name of an outermost member, and the JSON types that its value may have."""

    name: str
    types: tuple[type, ...]

    def is_in(self, document: Mapping[str, Any]) -> bool:
        """Whether `document` has the member with a value of one of the types."""
        return self.name in document and isinstance(document[self.name], self.types)


_MESSAGE, _RESPONSE, _CHOICES = Member("message", (dict,)), Member("response", (str,)), Member("choices", (list,))
# Events of these surfaces differ from each other. All have a type, and only the first one has the member below.
_TYPE = Member("type", (str,))

# Ollama writes null for an answer without content.
WHOLE: Mapping[AnswerShape, Member] = {
    AnswerShape.NATIVE_CHAT: _MESSAGE,
    AnswerShape.NATIVE_GENERATE: _RESPONSE,
    AnswerShape.NATIVE_EMBED: Member("embeddings", (list,)),
    AnswerShape.NATIVE_EMBEDDINGS: Member("embedding", (list,)),
    AnswerShape.OPENAI_CHAT: _CHOICES,
    AnswerShape.OPENAI_COMPLETIONS: _CHOICES,
    AnswerShape.OPENAI_EMBEDDINGS: Member("data", (list,)),
    AnswerShape.OPENAI_RESPONSES: Member("output", (list, type(None))),
    AnswerShape.ANTHROPIC_MESSAGES: Member("content", (list, type(None))),
}
FIRST_FRAME: Mapping[AnswerShape, Member] = {
    AnswerShape.NATIVE_CHAT: _MESSAGE,
    AnswerShape.NATIVE_GENERATE: _RESPONSE,
    AnswerShape.OPENAI_CHAT: _CHOICES,
    AnswerShape.OPENAI_COMPLETIONS: _CHOICES,
    AnswerShape.OPENAI_RESPONSES: Member("response", (dict,)),
    AnswerShape.ANTHROPIC_MESSAGES: Member("message", (dict,)),
}
LATER_FRAME: Mapping[AnswerShape, Member] = {
    **FIRST_FRAME,
    AnswerShape.OPENAI_RESPONSES: _TYPE,
    AnswerShape.ANTHROPIC_MESSAGES: _TYPE,
}


def reports_failure(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object reports an error in place of an answer.

    Ollama's /v1 surfaces write the failure of a model as a chunk with the model "", because the native error has none.
    """
    return document.get("error") is not None or document.get("model") == ""


def is_answer(shape: AnswerShape, document: Mapping[str, Any], *, whole: bool, first: bool) -> bool:
    """Whether a JSON object is a whole answer of `shape`, or a frame of one; `first` means the first frame."""
    members = WHOLE if whole else FIRST_FRAME if first else LATER_FRAME
    member = members.get(shape)
    return member is not None and member.is_in(document)


def media_type_of(content_type: str) -> str:
    """The media type in a `content-type` header, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()
