"""Reads a request body as Ollama's Go code does, which is more lenient than `json.loads`.

Ollama decodes bodies with `encoding/json` into structs. That decoder

* takes the first JSON value and ignores everything after it;
* matches struct fields without regard to case, where U+017F (long s) counts as `s` and U+212A (kelvin) as `k`;
* lets the last occurrence of a field win, except that `null` leaves a plain string, bool or number unchanged;
* merges repeated maps and structs, and repeated arrays of structs element by element;
* matches the keys of plain maps (`options`, tool arguments) exactly;
* replaces invalid UTF-8 and lone surrogates by U+FFFD, and rejects NaN, Infinity and a byte-order mark.

A gateway that reads a body differently lets a caller send one request to the gateway and another one to the model, so
the simulator must be lenient in exactly this way. One difference remains: this module rejects nesting beyond CPython's
recursion limit, while Go accepts 10,000 levels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

_CASE_FOLDING = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ\u017f\u212a", "abcdefghijklmnopqrstuvwxyzsk")

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class GoJsonError(ValueError):
    """The body does not fit the struct of its handler. The message is the one of Go's decoder."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: every key in order, including repeated ones."""


class GoType(Protocol):
    """A Go type to which a JSON value can be bound."""

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:
        """The value of the field at `field_path` once `value` is decoded over `previous` (None: not set yet)."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, bool, int or float64 field. Null resets a pointer (`*int`) and leaves a plain field unchanged."""

    go_type: str
    pointer: bool = False

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:
        """Raises GoJsonError when the JSON value has another type."""
        if value is None:
            return None if self.pointer else previous
        fits = {
            "string": isinstance(value, str),
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63,
            "float64": isinstance(value, int | float) and not isinstance(value, bool),
        }[self.go_type]
        if not fits:
            json_type = _json_type(value)
            shown = f"number {value}" if self.go_type == "int" and json_type == "number" else json_type
            raise _type_mismatch(shown, field_path, self.go_type)
        return _text(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Base64:
    """A `[]byte` field, which JSON encodes as a string of base64. The bound value is that string."""

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:  # noqa: ARG002
        """Raises GoJsonError when the value is not base64."""
        if value is None:
            return None
        if not isinstance(value, str):
            raise _type_mismatch(_json_type(value), field_path, "[]uint8")
        if (position := invalid_base64_at(value)) is not None:
            raise GoJsonError(f"illegal base64 data at input byte {position}")
        return value


@dataclass(frozen=True, slots=True)
class AnyValue:
    """An `any` field: the last value replaces the earlier ones completely."""

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:  # noqa: ARG002
        """Any JSON value, objects as dict."""
        return plain(value)


@dataclass(frozen=True, slots=True)
class Map:
    """A `map[string]any`: repeated maps merge, null empties the map."""

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:
        """Raises GoJsonError when the value is not an object."""
        if value is None:
            return None
        if not isinstance(value, Pairs):
            raise _type_mismatch(_json_type(value), field_path, "map[string]interface {}")
        return {**(previous or {}), **plain(value)}


@dataclass(frozen=True, slots=True)
class Array:
    """A slice: a repeated array is decoded over the elements of the earlier one, index by index."""

    item: GoType
    go_type: str

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:
        """Raises GoJsonError when the value is not an array."""
        if value is None:
            return None
        if not isinstance(value, list) or isinstance(value, Pairs):
            raise _type_mismatch(_json_type(value), field_path, self.go_type)
        earlier = previous or []
        return [
            self.item.bind(element, earlier[index] if index < len(earlier) else None, field_path)
            for index, element in enumerate(value)
        ]


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct with its JSON field names. Unknown keys are ignored."""

    go_type: str
    fields: Mapping[str, GoType]

    def bind(self, value: Any, previous: Any, field_path: str) -> Any:
        """Raises GoJsonError when the value is not an object or a field has the wrong type."""
        if value is None:
            return None
        if not isinstance(value, Pairs):
            raise _type_mismatch(_json_type(value), field_path, self.go_type)
        bound: dict[str, Any] = dict(previous or {})
        for key, item in value:
            name = key if key in self.fields else key.translate(_CASE_FOLDING)
            if name in self.fields:
                bound[name] = self.fields[name].bind(item, bound.get(name), f"{field_path}.{name}")
        return bound


STRING = Scalar("string")
BOOL = Scalar("bool")
OPTIONAL_BOOL = Scalar("bool", pointer=True)
INT = Scalar("int")
OPTIONAL_INT = Scalar("int", pointer=True)
OPTIONAL_FLOAT = Scalar("float64", pointer=True)
ANY = AnyValue()
BASE64 = Base64()
MAP = Map()


def bind(body: bytes, struct: Struct) -> dict[str, Any]:
    """The fields of `struct` that the body sets. Raises GoJsonError, with the message `EOF` for an empty body."""
    value = read(body)
    if value is None:
        return {}
    if not isinstance(value, Pairs):
        go_type = f"api.{struct.go_type}"
        raise GoJsonError(f"json: cannot unmarshal {_json_type(value)} into Go value of type {go_type}")
    bound: dict[str, Any] = struct.bind(value, None, struct.go_type)
    return bound


def read(body: bytes) -> Any:
    """The first JSON value of the body, its objects as `Pairs`. Raises GoJsonError."""
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise GoJsonError("EOF")
    try:
        value, _end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise GoJsonError(_syntax_message(text, error)) from None
    except RecursionError:
        raise GoJsonError("exceeded max depth") from None
    except ValueError as error:
        raise GoJsonError(str(error)) from None
    return value


def invalid_base64_at(text: str) -> int | None:
    """The position at which Go's `base64.StdEncoding` rejects the text, or None. It ignores line breaks."""
    content = text.translate({10: None, 13: None})
    valid = _BASE64.match(content)
    end = valid.end() if valid else 0
    return None if end == len(content) and end % 4 == 0 else end


def plain(value: Any) -> Any:
    """`value` with every `Pairs` turned into a dict, as Go fills an `any`: of equal keys the last one wins."""
    if isinstance(value, Pairs):
        return {_text(key): plain(item) for key, item in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def dump(value: Any, *, sort: bool = False) -> bytes:
    """JSON as Go's `json.Marshal` writes it: compact, in UTF-8, with `<`, `>`, `&`, U+2028 and U+2029 escaped.

    `sort` orders the keys, as Go does for a map.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=sort)
    for character in "<>&\u2028\u2029":
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _text(value: str) -> str:
    return value if value.isascii() else _SURROGATE.sub("\ufffd", value)


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Pairs) else "array"


def _type_mismatch(shown: str, field_path: str, go_type: str) -> GoJsonError:
    return GoJsonError(f"json: cannot unmarshal {shown} into Go struct field {field_path} of type {go_type}")


def _syntax_message(text: str, error: json.JSONDecodeError) -> str:
    position = error.pos
    if position >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character {text[position]!r} looking for beginning of value"


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"json: cannot unmarshal number {text[:40]} into Go value of type float64")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"invalid character {name.lstrip('-')[0]!r} looking for beginning of value")


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_float=_float, parse_constant=_constant)
