"""A second reader of JSON: bytes into struct fields, as Go's encoding/json does it.

Written from the documentation and from nothing that the gateway reads with, so that the two can be held against each
other: https://pkg.go.dev/encoding/json#Unmarshal (names matched in any case, null, maps and slices that are read into
again, invalid UTF-8 and surrogates), https://pkg.go.dev/encoding/json#Decoder.Decode (the first value, whatever
follows), https://pkg.go.dev/unicode#SimpleFold (the long s is an s, the Kelvin sign is a k) and
https://pkg.go.dev/strconv#ParseInt (what an int field takes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# Go stops at 10,000 levels; what the gateway admits stops far earlier, and so may this.
DEPTH_MAX = 200

_SPACE = b" \t\r\n"
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")
_ESCAPES = {
    ord('"'): '"', ord("\\"): "\\", ord("/"): "/", ord("b"): "\b", ord("f"): "\f", ord("n"): "\n", ord("r"): "\r",
    ord("t"): "\t",
}  # fmt: skip


class GoRefuses(Exception):
    """Go reports an error, which Ollama answers with a 400."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written; what it means depends on the field it goes into."""

    text: str

    def as_int64(self) -> int:
        """For an int field: neither a fraction nor an exponent."""
        if not _INTEGER.fullmatch(self.text) or len(self.text) > 20 or not -(2**63) <= int(self.text) < 2**63:
            raise GoRefuses(f"number {self.text[:40]} into int")
        return int(self.text)

    def as_float64(self) -> float:
        """For a float64 field, and for every number that has no type of its own."""
        value = float(self.text)
        if value in (float("inf"), float("-inf")):
            raise GoRefuses(f"number {self.text[:40]} into float64")
        return value


class Object(list[tuple[str, Any]]):
    """Every pair of an object in the order they were written, equal names included."""


def first_value(body: bytes) -> Any:
    """The first JSON value of `body`: Object, list, str, Number, bool or None. Raises GoRefuses."""
    return _Reader(body).value(0)


class _Reader:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def value(self, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise GoRefuses("exceeded max depth")
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
            raise GoRefuses("unexpected end of JSON input")
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

    def _invalid(self) -> GoRefuses:
        return GoRefuses(f"invalid character at {self._at}")


def _text(raw: bytes) -> str:
    """UTF-8 in which every byte that does not belong to a character becomes U+FFFD."""
    return re.sub("[\udc80-\udcff]", "\ufffd", raw.decode("utf-8", "surrogateescape"))


class Kind(Protocol):
    """The type of a struct field."""

    def read(self, new: Any, old: Any) -> Any:
        """What the field holds after `new` was read into it while it held `old`. Raises GoRefuses."""
        ...


@dataclass(frozen=True, slots=True)
class Scalar:
    """`string`, `bool`, `int` or `float64`. Null leaves it alone, and makes a pointer nil."""

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
        raise GoRefuses(f"{type(new).__name__} into {self.kind}")


@dataclass(frozen=True, slots=True)
class Anything:
    """`any`: what comes last, whole, every number a float64 and every object a map."""

    def read(self, new: Any, old: Any) -> Any:  # noqa: ARG002
        if isinstance(new, Object):
            return {name: self.read(value, None) for name, value in new}
        if isinstance(new, list):
            return [self.read(value, None) for value in new]
        return new.as_float64() if isinstance(new, Number) else new


@dataclass(frozen=True, slots=True)
class Map:
    """`map[string]any`: exact names; a map that is there already gets more entries."""

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None
        if not isinstance(new, Object):
            raise GoRefuses(f"{type(new).__name__} into map")
        return {**(old or {}), **ANY.read(new, None)}


@dataclass(frozen=True, slots=True)
class Slice:
    """`[]T`: a later array is read over the elements of an earlier one."""

    item: Kind

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None
        if not isinstance(new, list) or isinstance(new, Object):
            raise GoRefuses(f"{type(new).__name__} into slice")
        stale = old or []
        return [self.item.read(value, stale[at] if at < len(stale) else None) for at, value in enumerate(new)]


@dataclass(frozen=True, slots=True)
class Struct:
    """Fields by their JSON names; a name that is none of them, in whatever case, is ignored."""

    fields: Mapping[str, Kind]
    pointer: bool = False

    def read(self, new: Any, old: Any) -> Any:
        if new is None:
            return None if self.pointer else old
        if not isinstance(new, Object):
            raise GoRefuses(f"{type(new).__name__} into struct")
        held = dict(old or {})
        for name, value in new:
            field = name if name in self.fields else fold(name)
            if field in self.fields:
                held[field] = self.fields[field].read(value, held.get(field))
        return held


def fold(name: str) -> str:
    """The lower-case ASCII name that Go takes `name` for. Only two letters beyond ASCII fold into it."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else {"\u017f": "s", "\u212a": "k"}.get(c, c) for c in name)


STRING, BOOL, INT, FLOAT = Scalar("string"), Scalar("bool"), Scalar("int"), Scalar("float64")
STRING_POINTER, BOOL_POINTER = Scalar("string", pointer=True), Scalar("bool", pointer=True)
INT_POINTER, FLOAT_POINTER = Scalar("int", pointer=True), Scalar("float64", pointer=True)
ANY, MAP = Anything(), Map()
