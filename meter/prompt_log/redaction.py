"""Replaces personal data and secrets in text by markers. Pure.

Formats are found by patterns and confirmed by check digits where they have some, with python-stdnum: the Luhn algorithm
(ISO/IEC 7812-1) for cards, and the structure of each country and its check digits (ISO 13616) for IBANs. What a text
describes in words, such as a name or an address, is not recognised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator

from gateway.settings.personal_data import PersonalData

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

# A regular expression does not release the GIL, so long texts are read in windows of this size (characters).
WINDOW = 8192
# No format contains these characters, or a space between lower-case letters.
_BOUNDARY = re.compile(r'[\n\r\t",;<>]|(?<=[a-z]) (?=[a-z])')
_BOUNDARY_SEARCHED = 1024

_LOCAL = r"\w.!#$%&'*+/=?^`{|}~-"
_EMAIL = re.compile(rf"(?<![{_LOCAL}])[{_LOCAL}]++@(?:[\w-]{{1,63}}\.)+[\w-]{{2,63}}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}+")
_DIGIT_GROUPS = re.compile(r"\d[\d -]{11,}\d")
_DIGIT_GROUP = re.compile(r"\d+")
_CARD_LENGTHS = range(13, 20)
# The first digits of payment networks (ISO/IEC 7812-1, major industry identifiers 2 to 6).
_CARD_FIRST = "23456"
_PHONE = re.compile(
    # International (E.164 has at most 15 digits); with a trunk prefix and a separated area code; North American.
    r"(?<![\w+])(?:\+|00)[1-9](?:[ ()/.-]{0,3}\d){7,14}(?!\d)"
    r"|(?<![\w.,/-])(?:\(0[1-9]\d{1,4}\)|0[1-9]\d{1,4})[ /-]{1,3}\d(?:[ -]?\d){4,9}(?!\d)"
    r"|(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?!\d)"
)
# RFC 7468. A file has line breaks, so it is searched for in the whole text.
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\sA-Za-z0-9+/=:,.\\-]{0,16384}?-----END [A-Z ]{0,40}PRIVATE KEY-----"
)
# Each pattern begins with a literal, which makes the search several times faster. Keys of this gateway are found whole
# or cut; the others are tokens with the prefixes of their issuers, and JSON Web Tokens.
_KEYS = tuple(
    map(
        re.compile,
        (
            r"nz_[0-9A-Za-z]{9,}",
            *(rf"{kind}[-_][\w-]{{16,}}" for kind in ("sk", "pk", "rk")),
            *(rf"gh{kind}_\w{{20,}}" for kind in "opusr"),
            r"github_pat_\w{20,}",
            r"glpat-[\w-]{16,}",
            r"hf_\w{20,}",
            r"xox[abprs]-[\w-]{10,}",
            r"AKIA[0-9A-Z]{16}",
            r"ASIA[0-9A-Z]{16}",
            r"AIza[\w-]{30,}",
            r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
        ),
    )
)


class Redactor:
    """Replaces the given kinds of data by `[redacted: KIND]`."""

    def __init__(self, kinds: Collection[PersonalData]) -> None:
        # In the order of the definition: a key may contain digits that look like a card.
        self._finders = [(kind, _FINDERS[kind]) for kind in PersonalData if kind in kinds]
        self._has_keys = PersonalData.KEY in kinds

    def redact(self, text: str) -> str:
        """The text without this data, and otherwise unchanged.

        A run of WINDOW characters without a blank, a line break or punctuation may be divided within an item.
        """
        if self._has_keys:
            text = _PEM.sub(_marker(PersonalData.KEY), text)
        if len(text) <= WINDOW:
            return self._redact(text)
        parts = []
        begin = 0
        while begin < len(text):
            end = _boundary(text, begin + WINDOW)
            parts.append(self._redact(text[begin:end]))
            begin = end
            # Lets the event loop of the process run.
            time.sleep(0)
        return "".join(parts)

    def _redact(self, text: str) -> str:
        found = sorted(
            (begin, end, rank, kind) for rank, (kind, find) in enumerate(self._finders) for begin, end in find(text)
        )
        if not found:
            return text
        parts, done = [], 0
        for begin, end, _, kind in found:
            if begin >= done:
                parts += [text[done:begin], _marker(kind)]
            done = max(done, end)
        return "".join([*parts, text[done:]])


def _marker(kind: PersonalData) -> str:
    return f"[redacted: {kind}]"


def _boundary(text: str, end: int) -> int:
    """The end of the window: the last boundary before `end`, or `end` when there is none."""
    if end >= len(text):
        return len(text)
    found = [match.end() for match in _BOUNDARY.finditer(text, end - _BOUNDARY_SEARCHED, end)]
    return found[-1] if found else end


def _matches(pattern: re.Pattern[str]) -> Finder:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _keys(text: str) -> Iterator[Span]:
    for pattern in _KEYS:
        for match in pattern.finditer(text):
            begin, end = match.span()
            # "task-" is no prefix. A key of this gateway counts wherever it begins.
            if pattern is _KEYS[0] or begin == 0 or not text[begin - 1].isalnum():
                yield begin, end


def _ibans(text: str) -> Iterator[Span]:
    from stdnum import iban

    position = 0
    while match := _IBAN.search(text, position):
        begin, end = match.span()
        # Words in capitals may follow, so the longest valid beginning counts that ends where a group ends.
        valid = next((each for each in _iban_ends(text, begin, end) if iban.is_valid(text[begin:each])), None)
        # Another one may begin within what was taken for the rest of an invalid one.
        position = valid or begin + 1
        if valid:
            yield begin, valid


def _iban_ends(text: str, begin: int, end: int) -> list[int]:
    """The ends of the groups up to which the check digits are right (ISO 7064, MOD 97-10), the last one first."""
    # The first four characters are checked as if they followed the others, with letters as 10 to 35.
    head = int("".join(str(int(character, 36)) for character in text[begin : begin + 4]))
    ends, remainder = [], 0
    for number in range(begin + 4, end):
        if not text[number].isalnum():
            continue
        value = int(text[number], 36)
        remainder = (remainder * (10 if value < 10 else 100) + value) % 97
        if not text[number + 1 : number + 2].isalnum() and (remainder * 1_000_000 + head) % 97 == 1:
            ends.append(number + 1)
    return ends[::-1]


def _cards(text: str) -> Iterator[Span]:
    from stdnum import luhn

    for run in _DIGIT_GROUPS.finditer(text):
        groups = [group.span() for group in _DIGIT_GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _card_end(text, groups, first, luhn.is_valid)
            if last is not None:
                yield groups[first][0], groups[last][1]
                first = last
            first += 1


def _card_end(text: str, groups: list[Span], first: int, is_valid: Callable[[str], bool]) -> int | None:
    """The number of the last group of the longest card that begins with group `first`, None when none does."""
    if text[groups[first][0]] not in _CARD_FIRST:
        return None
    digits, found = "", None
    for number in range(first, len(groups)):
        if number > first and groups[number][0] - groups[number - 1][1] > 1:
            break
        digits += text[slice(*groups[number])]
        if len(digits) >= _CARD_LENGTHS.stop:
            break
        if len(digits) in _CARD_LENGTHS and is_valid(digits):
            found = number
    return found


_FINDERS: dict[PersonalData, Finder] = {
    PersonalData.KEY: _keys,
    PersonalData.EMAIL: _matches(_EMAIL),
    PersonalData.IBAN: _ibans,
    PersonalData.CARD: _cards,
    PersonalData.PHONE: _matches(_PHONE),
}
