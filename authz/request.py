"""Strict reading of a request body. Pure.

Ollama reads JSON as Go's encoding/json does: it accepts field names in any case (with Unicode folding), the last of
duplicate keys wins or maps merge, null leaves a field unchanged, and text after the first value is ignored. So a field
that Ollama binds and the gateway acts on is accepted in one spelling and once, and the checked request is the executed
one. These fields are at the top level, in `options`, in `stream_options`, and the `type` and `tools` of a tool.

Everything else is carried: the contents of messages, tools, arguments and schemas pass as they are, with any keys,
numbers and escapes (`gateway.request.json_text`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn

from gateway.errors import Code, Denied
from gateway.request.generation import GenerationRequest, read_generation_request
from gateway.request.model_name import canonical
from gateway.request.ollama_options import NUMBERS, check_options
from gateway.request.runner_options import RUNNER_OPTIONS, decisive_option
from gateway.wire.surfaces import Surface

# Far below the depth at which Python's parser stops, and far above that of any schema in use.
DEPTH_MAX = 200
# A prompt has few values that are long. Tiny ones take far more time to read than their bytes suggest, and the reader
# blocks every other request of its process.
VALUES_MAX = 200_000
# Ollama reads one level of namespaces in the tools of /v1/responses.
NAMESPACE_DEPTH_MAX = 4
# No number that the gateway acts on has more digits.
_DIGITS_MAX = 20

# Field names of Ollama's request structs (api/types.go, openai.go, responses.go, anthropic.go). Go matches them in any
# case, so only the exact spelling is accepted.
_FIELDS = frozenset(
    "model name prompt suffix system template context stream raw format keep_alive images options think truncate shift "
    "messages tools input dimensions encoding_format logprobs top_logprobs _debug_render_only stream_options "
    "include_usage max_tokens max_completion_tokens max_output_tokens temperature top_p top_k frequency_penalty "
    "presence_penalty seed stop stop_sequences response_format reasoning reasoning_effort tool_choice thinking "
    "instructions metadata store width height steps background conversation include text truncation "
    "output_config".split()
)
_STREAM_OPTIONS_FIELDS = frozenset({"include_usage"})
# Ollama matches options by their exact names. Another spelling next to the one that the gateway writes would be
# ambiguous for any other reader.
_OPTIONS_FIELDS = frozenset({*NUMBERS, *RUNNER_OPTIONS, "num_predict", "stop"})
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# The fields that decide whether Ollama runs a tool itself; `tools` are the members of a namespace of /v1/responses.
_TOOL_FIELDS = frozenset({"type", "tools"})


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The contents of a request body: the options of the generation, and the parsed document.

    `model` is the canonical name of the model, `requested_model` the caller's spelling of it. `decisive_option` names
    an option of the runner without which this would be another request.
    """

    model: str
    requested_model: str
    generation: GenerationRequest
    decisive_option: str | None
    document: dict[str, Any]


def read_request(surface: Surface, body: bytes, content_encoding: str) -> ReadRequest:
    """Reads `body` as one strict JSON object. Raises Denied(invalid_request) with a sentence that says what to fix."""
    document = _read_document(body, content_encoding)
    for field, known in (("options", _OPTIONS_FIELDS), ("stream_options", _STREAM_OPTIONS_FIELDS)):
        if isinstance(options := document.get(field), dict):
            _check_spelling(options, known)
    _check_tools(document.get("tools"))
    model = _model_of(document, "model")
    try:
        check_options(surface, document)
        option = decisive_option(surface, document)
        return ReadRequest(model, document["model"], read_generation_request(surface, document), option, document)
    except ValueError as error:
        _deny(str(error))


def read_model(body: bytes, content_encoding: str) -> str:
    """The canonical model name in the body of /api/show, where Ollama reads `name` when there is no `model`."""
    document = _read_document(body, content_encoding)
    return _model_of(document, "name" if document.get("name") and not document.get("model") else "model")


def as_model_name(name: str) -> str:
    """The canonical name of the model `name`. Raises Denied(invalid_request) when it is not a model name."""
    try:
        return canonical(name)
    except ValueError as error:
        _deny(str(error))


def _read_document(body: bytes, content_encoding: str) -> dict[str, Any]:
    if content_encoding.strip().lower() not in ("", "identity"):
        # Envoy has decoded the encodings that it knows and removed them from the header.
        _deny(
            f"the Content-Encoding {content_encoding[:64]!r} is not supported; send the body with gzip, br, zstd or"
            " without an encoding"
        )
    document = _parse(body)
    _check_spelling(document, _FIELDS)
    return document


def _model_of(document: dict[str, Any], field: str) -> str:
    name = document.get(field)
    if not isinstance(name, str) or not name:
        _deny(f"the field {field!r} must be a non-empty string")
    return as_model_name(name)


def _deny(sentence: str) -> NoReturn:
    raise Denied(Code.INVALID_REQUEST, sentence) from None


def _parse(body: bytes) -> dict[str, Any]:
    if not body:
        _deny("the request has no body; send one JSON object")
    # Each level of nesting has an opening bracket.
    brackets = _occurrences(body, (b"{", b"["), VALUES_MAX)
    if _has_more_values_than(VALUES_MAX, body, brackets):
        _deny(f"the body has more than {VALUES_MAX} values; send fewer and longer ones")
    try:
        document = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        _deny("the body is not valid UTF-8")
    except RecursionError:
        _deny(f"the body is nested deeper than {DEPTH_MAX} levels")
    except json.JSONDecodeError as error:
        _deny(f"the body is not one JSON object: {error.msg} at character {error.pos}")
    if not isinstance(document, dict):
        _deny("the body must be a JSON object")
    if brackets > DEPTH_MAX and _deeper_than(document, DEPTH_MAX):
        _deny(f"the body is nested deeper than {DEPTH_MAX} levels")
    return document


def _has_more_values_than(maximum: int, body: bytes, brackets: int) -> bool:
    """Whether the JSON has more values than `maximum`. Every value follows a comma or one of the opening `brackets`."""
    if len(body) <= maximum or _occurrences(body, (b",",), maximum) + brackets <= maximum:
        return False
    # Those within strings, as in a program or a table, separate nothing.
    return _occurrences(_STRING.sub(b"", body), (b",", b"{", b"["), maximum) > maximum


def _occurrences(body: bytes, characters: Sequence[bytes], maximum: int) -> int:
    """How often the `characters` occur in `body`, of which more than `maximum` of each are not counted.

    CPython searches for a character to replace with `memchr`. `count` compares each byte, which takes as much as 80
    times longer for a body of some MiB.
    """
    return sum(len(body) - len(body.replace(character, b"", maximum + 1)) for character in characters)


class RepeatedKeys(dict[str, Any]):
    """An object that has a key more than once. `items` and `values` contain every pair, so that estimates count all."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    @property
    def repeated(self) -> set[str]:
        """The keys that are given more than once."""
        counts = Counter(key for key, _ in self._pairs)
        return {key for key, count in counts.items() if count > 1}

    def items(self) -> list[tuple[str, Any]]:  # type: ignore[override]  # A dict view cannot repeat a key.
        return self._pairs

    def values(self) -> list[Any]:  # type: ignore[override]  # For the same reason.
        return [value for _, value in self._pairs]

    def clear(self) -> None:
        """Removes every pair."""
        super().clear()
        self._pairs = []


class OutsizedNumber(str):
    """The text of a number that no field of the gateway accepts. The gateway carries it and never computes with it."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else RepeatedKeys(pairs)


def _integer(digits: str) -> int | OutsizedNumber:
    return int(digits) if len(digits) <= _DIGITS_MAX else OutsizedNumber(digits)


def _float(digits: str) -> float | OutsizedNumber:
    value = float(digits)
    return value if isfinite(value) else OutsizedNumber(digits)


def _constant(word: str) -> NoReturn:
    _deny(f"{word} is not JSON")


# Made once, because `json.loads` makes a decoder for each call that has hooks.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def _deeper_than(document: object, levels: int) -> bool:
    layer: list[object] = [document]
    for _ in range(levels):
        layer = [
            child
            for value in layer
            for child in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
            if isinstance(child, dict | list)
        ]
        if not layer:
            return False
    return True


def _check_spelling(fields: dict[str, Any], known: frozenset[str]) -> None:
    """Denies a field of `known` that is given twice or in another letter case."""
    for key in fields.repeated if isinstance(fields, RepeatedKeys) else ():
        if key in known:
            _deny(f"the field {key!r} is given more than once")
    for key in fields:
        if key not in known and key.casefold() in known:
            _deny(f"the field {key[:64]!r} must be spelled {key.casefold()!r}")


def _check_tools(tools: object, levels: int = NAMESPACE_DEPTH_MAX) -> None:
    """Holds tools to one spelling of the fields by which the meter finds server-side ones."""
    if not isinstance(tools, list):
        return
    if not levels:
        _deny(f"namespaces of tools are nested deeper than {NAMESPACE_DEPTH_MAX} levels")
    for tool in tools:
        if isinstance(tool, dict):
            _check_spelling(tool, _TOOL_FIELDS)
            _check_tools(tool.get("tools"), levels - 1)
