"""Reads a request body the way Ollama's Go code does, which is looser than `json.loads`.

Ollama decodes bodies with `encoding/json` into structs. That reader

* takes the first JSON value and ignores whatever follows it;
* matches struct fields without regard to case, U+017F (long s) counting as `s` and U+212A (kelvin) as `k`;
* lets the last occurrence of a field win, except that `null` leaves a plain string, bool or number as it was;
* merges repeated maps and structs, and repeated arrays of structs element by element;
* matches keys of plain maps (`options`, tool arguments) exactly;
* replaces invalid UTF-8 and lone surrogates by U+FFFD and refuses NaN, Infinity and a byte-order mark.

A gateway that reads a body differently lets a caller say one thing to the gateway and another to the model, so
the simulator has to be exactly this gullible. One difference is left: nesting beyond CPython's recursion
limit is refused here, while Go accepts 10,000 levels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

_FOLD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ\u017f\u212a", "abcdefghijklmnopqrstuvwxyzsk")

_SURROGATE = re.compile(r"[\ud800-\udfff]")


class GoJsonError(ValueError):
    """The body is not what the handler binds; the text is the one Go's decoder gives."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: every key in order, repeated ones included."""


class Kind(Protocol):
    """One Go type a JSON value can be bound to."""

    def bind(self, new: Any, old: Any, where: str) -> Any:
        """The value of the field named `where` after `new` was read over `old` (None: not set before)."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, bool, int or float64 field; a pointer (`*int`) is reset by null, a plain field is not."""

    go_type: str
    pointer: bool = False

    def bind(self, new: Any, old: Any, where: str) -> Any:
        """Raises GoJsonError when the JSON value has another type."""
        if new is None:
            return None if self.pointer else old
        fits = {
            "string": isinstance(new, str),
            "bool": isinstance(new, bool),
            "int": isinstance(new, int) and not isinstance(new, bool) and -(2**63) <= new < 2**63,
            "float64": isinstance(new, int | float) and not isinstance(new, bool),
        }[self.go_type]
        if not fits:
            written = f"number {new}" if self.go_type == "int" and _kind_of(new) == "number" else _kind_of(new)
            raise _mismatch(written, where, self.go_type)
        return _text(new) if isinstance(new, str) else new


@dataclass(frozen=True, slots=True)
class Anything:
    """An `any` field: the last value wins whole."""

    def bind(self, new: Any, old: Any, where: str) -> Any:  # noqa: ARG002
        """Any JSON value, objects as dict."""
        return plain(new)


@dataclass(frozen=True, slots=True)
class Map:
    """A `map[string]any`: repeated maps merge, null empties."""

    def bind(self, new: Any, old: Any, where: str) -> Any:
        """Raises GoJsonError when the value is not an object."""
        if new is None:
            return None
        if not isinstance(new, Pairs):
            raise _mismatch(_kind_of(new), where, "map[string]interface {}")
        return {**(old or {}), **plain(new)}


@dataclass(frozen=True, slots=True)
class Array:
    """A slice: a repeated array is read over the elements of the earlier one, index by index."""

    item: Kind
    go_type: str

    def bind(self, new: Any, old: Any, where: str) -> Any:
        """Raises GoJsonError when the value is not an array."""
        if new is None:
            return None
        if not isinstance(new, list) or isinstance(new, Pairs):
            raise _mismatch(_kind_of(new), where, self.go_type)
        stale = old or []
        return [self.item.bind(v, stale[i] if i < len(stale) else None, where) for i, v in enumerate(new)]


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct with its JSON field names; unknown keys are ignored."""

    go_type: str
    fields: Mapping[str, Kind]

    def bind(self, new: Any, old: Any, where: str) -> Any:
        """Raises GoJsonError when the value is not an object or one of its fields has the wrong type."""
        if new is None:
            return None
        if not isinstance(new, Pairs):
            raise _mismatch(_kind_of(new), where, self.go_type)
        found: dict[str, Any] = dict(old or {})
        for key, value in new:
            name = key if key in self.fields else key.translate(_FOLD)
            if name in self.fields:
                found[name] = self.fields[name].bind(value, found.get(name), f"{where}.{name}")
        return found


STRING = Scalar("string")
BOOL = Scalar("bool")
OPTIONAL_BOOL = Scalar("bool", pointer=True)
INT = Scalar("int")
OPTIONAL_INT = Scalar("int", pointer=True)
OPTIONAL_FLOAT = Scalar("float64", pointer=True)
ANY = Anything()
MAP = Map()


def bind(body: bytes, struct: Struct) -> dict[str, Any]:
    """The fields of `struct` that the body sets. Raises GoJsonError; its text is `EOF` for an empty body."""
    value = read(body)
    if value is None:
        return {}
    if not isinstance(value, Pairs):
        go_type = f"api.{struct.go_type}"
        raise GoJsonError(f"json: cannot unmarshal {_kind_of(value)} into Go value of type {go_type}")
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
        raise GoJsonError(_syntax(text, error)) from None
    except RecursionError:
        raise GoJsonError("exceeded max depth") from None
    except ValueError as error:
        raise GoJsonError(str(error)) from None
    return value


def plain(value: Any) -> Any:
    """`value` with every `Pairs` turned into a dict, as Go fills an `any`: the last of equal keys wins."""
    if isinstance(value, Pairs):
        return {_text(key): plain(item) for key, item in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def dump(value: Any, *, sort: bool = False) -> bytes:
    """JSON as Go's `json.Marshal` writes it: compact, UTF-8, with `<`, `>`, `&`, U+2028 and U+2029 escaped; with
    keys in order (`sort`) when Go would marshal a map."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=sort)
    for character in "<>&\u2028\u2029":
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _text(value: str) -> str:
    return value if value.isascii() else _SURROGATE.sub("\ufffd", value)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Pairs) else "array"


def _mismatch(written: str, where: str, go_type: str) -> GoJsonError:
    return GoJsonError(f"json: cannot unmarshal {written} into Go struct field {where} of type {go_type}")


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    at = error.pos
    if at >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character {text[at]!r} looking for beginning of value"


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"json: cannot unmarshal number {text[:40]} into Go value of type float64")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"invalid character {name.lstrip('-')[0]!r} looking for beginning of value")


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_float=_float, parse_constant=_constant)
