"""JSON text whose parts keep their spelling: an object as its members, a list as its items. Pure.

The gateway changes few fields of a request and carries all others. A carried value is never serialised again, so its
numbers, keys and escapes reach the backend exactly as the caller wrote them.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_SPACE = re.compile(r"[ \t\n\r]*")
# A key without escapes, as almost all are, and the colon after it. One match is cheaper than the steps it replaces.
_PLAIN_KEY = re.compile(r'("([^"\\\x00-\x1f]*)")[ \t\n\r]*:[ \t\n\r]*')
_NEXT_MEMBER = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*|(\}))")
# The values are only skipped. `float` accepts an integer of any length.
_SKIP = json.JSONDecoder(parse_int=float)
# For a text, the same as `json.dumps` without its overhead.
quoted = json.encoder.encode_basestring_ascii


class Member(NamedTuple):
    """One member of an object: its name, and the texts of its key and its value."""

    name: str
    key: str
    value: str


class JsonObject:
    """A JSON object as the list of its members. Members that are not changed keep their text and their order."""

    def __init__(self, text: str = "{}") -> None:
        """Reads `text`. Raises ValueError unless it is exactly one JSON object."""
        self.members: list[Member] = []
        at = _opening(text, "{")
        if text[at : at + 1] == "}":
            at += 1
        else:
            at = self._read_members(text, at)
        _expect_end(text, at)

    def get(self, name: str) -> str | None:
        """The text of the value of the member `name`, None when there is none."""
        for member in self.members:
            if member.name == name:
                return member.value
        return None

    def set(self, name: str, value: str) -> None:
        """Replaces the value of the first member `name`, or appends the member. `value` is JSON text."""
        for place, member in enumerate(self.members):
            if member.name == name:
                self.members[place] = Member(name, member.key, value)
                return
        self.members.append(Member(name, quoted(name), value))

    def remove(self, name: str) -> None:
        """Removes every member `name`."""
        self.members = [member for member in self.members if member.name != name]

    def __str__(self) -> str:
        # One join, because a value may have many MiB and each step would copy it.
        pieces = [piece for _, key, value in self.members for piece in (",", key, ":", value)]
        return "".join(["{", *pieces[1:], "}"])

    def _read_members(self, text: str, at: int) -> int:
        while True:
            if plain := _PLAIN_KEY.match(text, at):
                key, name = plain.groups()
                start = plain.end()
            else:
                name, key, start = _escaped_key(text, at)
            _, stop = _SKIP.raw_decode(text, start)
            self.members.append(Member(name, key, text[start:stop]))
            following = _NEXT_MEMBER.match(text, stop)
            if following is None:
                raise ValueError("expected a comma or }")
            at = following.end()
            if following[1]:
                return at


def items(text: str) -> list[tuple[str, Any]]:
    """The texts of the items of a JSON list and their values, with every number as a float.

    Raises ValueError unless `text` is exactly one list.
    """
    found: list[tuple[str, Any]] = []
    at = _opening(text, "[")
    if text[at : at + 1] == "]":
        _expect_end(text, at + 1)
        return found
    is_last = False
    while not is_last:
        value, stop = _SKIP.raw_decode(text, at)
        found.append((text[at:stop], value))
        at = _past_space(text, stop)
        is_last = text[at : at + 1] == "]"
        if not is_last and text[at : at + 1] != ",":
            raise ValueError("expected a comma or ]")
        at = at + 1 if is_last else _past_space(text, at + 1)
    _expect_end(text, at)
    return found


def _escaped_key(text: str, at: int) -> tuple[str, str, int]:
    """A name, the text of its key, and the place of the value after it."""
    if text[at : at + 1] != '"':
        raise ValueError("expected the key of a member")
    name, end = _SKIP.raw_decode(text, at)
    colon = _past_space(text, end)
    if text[colon : colon + 1] != ":":
        raise ValueError("expected a colon after a key")
    return name, text[at:end], _past_space(text, colon + 1)


def _past_space(text: str, at: int) -> int:
    # Almost always there is none, and a comparison is cheaper than a match.
    if text[at : at + 1] > " ":
        return at
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _opening(text: str, bracket: str) -> int:
    at = _past_space(text, 0)
    if text[at : at + 1] != bracket:
        raise ValueError("the text is not a JSON object" if bracket == "{" else "the text is not a JSON list")
    return _past_space(text, at + 1)


def _expect_end(text: str, at: int) -> None:
    if _past_space(text, at) != len(text):
        raise ValueError("expected nothing after the value")
