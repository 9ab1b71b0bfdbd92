"""A second JSON parser: bytes into struct fields, as Go's encoding/json does.

It shares no code with the gateway's parser, so that the two can be compared. Sources:
https://pkg.go.dev/encoding/json#Unmarshal (case-insensitive names, null, maps and slices that are decoded into again,
invalid UTF-8 and surrogates), https://pkg.go.dev/encoding/json#Decoder.Decode (the first value only),
https://pkg.go.dev/unicode#SimpleFold (the long s is an s, the Kelvin sign is a k) and
https://pkg.go.dev/strconv#ParseInt (the syntax of an int field).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# Go stops at 10,000 levels. The gateway admits far fewer, so this limit may be lower too.
DEPTH_MAX = 400

_SPACE = b" \t\r\n"
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")
_ESCAPES = {
    ord('"'): '"', ord("\\"): "\\", ord("/"): "/", ord("b"): "\b", ord("f"): "\f", ord("n"): "\n", ord("r"): "\r",
    ord("t"): "\t",
}  # fmt: skip


class GoError(Exception):
    """Go reports an error, which Ollama answers with status 400."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written. Its meaning depends on the type of the field."""

    text: str

    def as_int64(self) -> int:
        """The value for an int field, which accepts neither a fraction nor an exponent. Raises GoError."""
        if not _INTEGER.fullmatch(self.text) or len(self.text) > 20 or not -(2**63) <= int(self.text) < 2**63:
            raise GoError(f"number {self.text[:40]} into int")
        return int(self.text)

    def as_float64(self) -> float:
        """The value for a float64 field and for a field of type `any`. Raises GoError."""
        value = float(self.text)
        if value in (float("inf"), float("-inf")):
            raise GoError(f"number {self.text[:40]} into float64")
        return value


class Object(list[tuple[str, Any]]):
    """The pairs of an object as written, in order, including duplicate names."""


def first_value(body: bytes) -> Any:
    """The first JSON value of `body`: Object, list, str, Number, bool or None. Raises GoError."""
    return _Reader(body).value(0)


class _Reader:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def value(self, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise GoError("exceeded max depth")
        self._skip_space()
        match self._peek():
            case 0x7B:
                return self._object(depth)
            case 0x5B:
                return self._array(depth)
            case 0x22:
                return self._string()
        for word, value in ((b"true", True), (b"false", False), (b"null", None)):
            if self._body.startswith(word, self._at):
                self._at += len(word)
                return value
        found = _NUMBER.match(self._body, self._at)
        if found is None:
            raise self._invalid()
        self._at = found.end()
        return Number(found.group().decode())

    def _object(self, depth: int) -> Object:
        pairs = Object()
        self._at += 1
        if self._next_is(b"}"):
            return pairs
        while True:
            self._skip_space()
            if self._peek() != 0x22:
                raise self._invalid()
            name = self._string()
            self._expect(b":")
            pairs.append((name, self.value(depth + 1)))
            if self._next_is(b"}"):
                return pairs
            self._expect(b",")

    def _array(self, depth: int) -> list[Any]:
        items: list[Any] = []
        self._at += 1
        if self._next_is(b"]"):
            return items
        while True:
            items.append(self.value(depth + 1))
            if self._next_is(b"]"):
                return items
            self._expect(b",")

    def _string(self) -> str:
        self._at += 1
        parts: list[str] = []
        start = self._at
        while (byte := self._peek()) != 0x22:
            if byte < 0x20:
                raise self._invalid()
            if byte == 0x5C:
                parts.append(_text(self._body[start : self._at]))
                parts.append(self._escape())
                start = self._at
            else:
                self._at += 1
        parts.append(_text(self._body[start : self._at]))
        self._at += 1
        return "".join(parts)

    def _escape(self) -> str:
        self._at += 1
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        if kind != 0x75:
            raise self._invalid()
        unit = self._four_digits(self._at)
        if unit is None:
            raise self._invalid()
        self._at += 4
        if not 0xD800 <= unit < 0xE000:
            return chr(unit)
        low = self._four_digits(self._at + 2) if self._body.startswith(b"\\u", self._at) else None
        if unit < 0xDC00 and low is not None and 0xDC00 <= low < 0xE000:
            self._at += 6
            return chr(0x10000 + ((unit - 0xD800) << 10) + low - 0xDC00)
        return "\ufffd"

    def _four_digits(self, at: int) -> int | None:
        digits = self._body[at : at + 4]
        return int(digits, 16) if re.fullmatch(rb"[0-9a-fA-F]{4}", digits) else None

    def _peek(self) -> int:
        if self._at >= len(self._body):
            raise GoError("unexpected end of JSON input")
        return self._body[self._at]

    def _skip_space(self) -> None:
        while self._at < len(self._body) and self._body[self._at] in _SPACE:
            self._at += 1

    def _next_is(self, mark: bytes) -> bool:
        self._skip_space()
        if self._body.startswith(mark, self._at):
            self._at += 1
            return True
        return False

    def _expect(self, mark: bytes) -> None:
        if not self._next_is(mark):
            raise self._invalid()

    def _invalid(self) -> GoError:
        return GoError(f"invalid character at {self._at}")


def _text(raw: bytes) -> str:
    """Decodes UTF-8. Each byte that is not part of a character becomes U+FFFD."""
    return re.sub("[\udc80-\udcff]", "\ufffd", raw.decode("utf-8", "surrogateescape"))


class Kind(Protocol):
    """The type of a struct field."""

    def read(self, new: Any, old: Any) -> Any:
        """The value of the field after `new` is decoded over the value `old`. Raises GoError."""
        ...


@dataclass(frozen=True, slots=True)
class Scalar:
    """`string`, `bool`, `int` or `float64`. Null leaves a value unchanged and sets a pointer to nil."""

    kind: Literal["string", "bool", "int", "float64"]
    pointer: bool = False

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None if self.pointer else old
        if self.kind == "string" and isinstance(new, str):
            return new
        if self.kind == "bool" and isinstance(new, bool):
            return new
        if isinstance(new, Number) and self.kind in ("int", "float64"):
            return new.as_int64() if self.kind == "int" else new.as_float64()
        raise GoError(f"{type(new).__name__} into {self.kind}")


@dataclass(frozen=True, slots=True)
class Anything:
    """`any`: the last value replaces earlier ones. Every number is a float64 and every object a map."""

    def read(self, new: Any, old: Any) -> Any:  # noqa: ARG002
        if isinstance(new, Object):
            return {name: self.read(value, None) for name, value in new}
        if isinstance(new, list):
            return [self.read(value, None) for value in new]
        return new.as_float64() if isinstance(new, Number) else new


@dataclass(frozen=True, slots=True)
class Map:
    """`map[string]any`: exact names. Entries are added to an existing map."""

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None
        if not isinstance(new, Object):
            raise GoError(f"{type(new).__name__} into map")
        return {**(old or {}), **ANY.read(new, None)}


@dataclass(frozen=True, slots=True)
class Slice:
    """`[]T`: a later array is decoded over the elements of an earlier one."""

    item: Kind

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None
        if not isinstance(new, list) or isinstance(new, Object):
            raise GoError(f"{type(new).__name__} into slice")
        stale = old or []
        return [self.item.read(value, stale[at] if at < len(stale) else None) for at, value in enumerate(new)]


@dataclass(frozen=True, slots=True)
class Struct:
    """Fields by their JSON names, which match in any case. Unknown names are ignored."""

    fields: Mapping[str, Kind]
    pointer: bool = False

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None if self.pointer else old
        if not isinstance(new, Object):
            raise GoError(f"{type(new).__name__} into struct")
        values = dict(old or {})
        for name, value in new:
            field = name if name in self.fields else fold(name)
            if field in self.fields:
                values[field] = self.fields[field].read(value, values.get(field))
        return values


def fold(name: str) -> str:
    """The lower-case ASCII name that Go matches `name` with. Only two non-ASCII letters fold to ASCII."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else {"\u017f": "s", "\u212a": "k"}.get(c, c) for c in name)


STRING, BOOL, INT, FLOAT = Scalar("string"), Scalar("bool"), Scalar("int"), Scalar("float64")
STRING_POINTER, BOOL_POINTER = Scalar("string", pointer=True), Scalar("bool", pointer=True)
INT_POINTER, FLOAT_POINTER = Scalar("int", pointer=True), Scalar("float64", pointer=True)
ANY, MAP = Anything(), Map()
