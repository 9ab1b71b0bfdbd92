"""Strict reading of a request body. Pure.

Ollama reads JSON as Go's encoding/json does: it accepts field names in any case (with Unicode folding), the last of
duplicate keys wins or maps merge, null leaves a field unchanged, and text after the first value is ignored. A body that
two readers could read differently is denied here, so that the checked request is the executed one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.errors import Code, Denied
from gateway.request.generation import GenerationRequest, read_generation_request
from gateway.request.model_name import canonical
from gateway.wire.surfaces import Surface

DEPTH_MAX = 64
_INTEGER_MAX = 2**63 - 1

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
_OPTIONS_FIELDS = frozenset(
    "num_keep seed num_predict top_k top_p min_p typical_p repeat_last_n temperature repeat_penalty presence_penalty "
    "frequency_penalty stop num_ctx num_batch num_gpu main_gpu use_mmap num_thread draft_num_predict numa low_vram "
    "f16_kv logits_all vocab_only use_mlock".split()
)
# The fields that decide whether Ollama runs a tool itself; `tools` are the members of a namespace of /v1/responses.
_TOOL_FIELDS = frozenset({"type", "tools"})


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The contents of a request body: the canonical model name, the options of the generation, the parsed document."""

    model: str
    generation: GenerationRequest
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
        return ReadRequest(model, read_generation_request(surface, document), document)
    except ValueError as error:
        _deny(str(error))


def read_model(body: bytes, content_encoding: str) -> str:
    """The canonical model name in the body of /api/show, where Ollama reads `name` when there is no `model`."""
    document = _read_document(body, content_encoding)
    return _model_of(document, "model" if document.get("model") else "name")


def as_model_name(name: str) -> str:
    """The canonical name of the model `name`. Raises Denied(invalid_request) when it is not a model name."""
    try:
        return canonical(name)
    except ValueError as error:
        _deny(str(error))


def _read_document(body: bytes, content_encoding: str) -> dict[str, Any]:
    if content_encoding.strip().lower() not in ("", "identity"):
        _deny("Content-Encoding is not supported; send the JSON body uncompressed")
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
    try:
        text = body.decode("utf-8")
        document = json.loads(
            text,
            object_pairs_hook=_unambiguous,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=lambda word: _deny(f"{word} is not JSON"),
        )
        # Only an escape can contain a lone surrogate, which UTF-8 cannot encode.
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        _deny("the body is not valid UTF-8")
    except UnicodeEncodeError:
        _deny("the body has a lone surrogate in a string")
    except RecursionError:
        _deny(f"the body is nested deeper than {DEPTH_MAX} levels")
    except json.JSONDecodeError as error:
        _deny(f"the body is not one JSON object: {error.msg} at character {error.pos}")
    if not isinstance(document, dict):
        _deny("the body must be a JSON object")
    if _deeper_than(document, DEPTH_MAX):
        _deny(f"the body is nested deeper than {DEPTH_MAX} levels")
    return document


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key.casefold() in seen:
                _deny(f"the key {key[:64]!r} is given more than once (case does not distinguish keys)")
            seen.add(key.casefold())
    return dict(pairs)


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _INTEGER_MAX:
        _deny("a number is out of range")
    return int(digits)


def _finite(digits: str) -> float:
    if len(digits) > 400 or abs(value := float(digits)) > 1e300:
        _deny("a number is out of range")
    return value


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
    for key in fields:
        if key not in known and key.casefold() in known:
            _deny(f"the field {key[:64]!r} must be spelled {key.casefold()!r}")


def _check_tools(tools: object) -> None:
    """Denies `web_search` tools. Ollama runs them itself, and the generations that they cause are not counted."""
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        _check_spelling(tool, _TOOL_FIELDS)
        kind = tool.get("type")
        if isinstance(kind, str) and kind.lower().startswith("web_search"):
            _deny("server-side web_search tools are not available through this gateway")
        _check_tools(tool.get("tools"))
