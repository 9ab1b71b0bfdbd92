"""The format of an API key: generates keys and recognises them. Pure, apart from the system's randomness.

    nz_ 9 random  26 random  6 check      44 characters, base62 after `nz_`
    └─ prefix ─┘  └ secret ┘ └─────┘

The prefix (12 characters) is stored in clear text and identifies the key. The whole key is stored only as a hash. With
the check digits a mistyped or invented key is denied without any I/O; they add no secrecy.
"""

from __future__ import annotations

import re
import secrets
import string
from binascii import crc32
from dataclasses import dataclass

from pydantic import SecretStr

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
MARK = "nz_"
PREFIX_LENGTH = 12
SECRET_LENGTH = 26
CHECK_LENGTH = 6
KEY_LENGTH = PREFIX_LENGTH + SECRET_LENGTH + CHECK_LENGTH

_KEY = re.compile(rf"{MARK}[0-9A-Za-z]{{{KEY_LENGTH - len(MARK)}}}")
_PREFIX = re.compile(rf"{MARK}[0-9A-Za-z]{{{PREFIX_LENGTH - len(MARK)}}}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A well-formed key. `prefix` may be shown and stored. `secret` is the whole key and must not be."""

    prefix: str
    secret: SecretStr


def generate(prefix: str | None = None) -> ApiKey:
    """A new key with 154 bits of secret, and with a new prefix unless one is given."""
    prefix = prefix or MARK + _random(PREFIX_LENGTH - len(MARK))
    body = prefix + _random(SECRET_LENGTH)
    return ApiKey(prefix, SecretStr(body + check_digits(body)))


def parse(text: str) -> ApiKey | None:
    """The key `text`, None when its shape or its check digits are wrong. Never raises."""
    if not _KEY.fullmatch(text) or check_digits(text[:-CHECK_LENGTH]) != text[-CHECK_LENGTH:]:
        return None
    return ApiKey(text[:PREFIX_LENGTH], SecretStr(text))


def problem(text: str) -> str | None:
    """What is wrong with `text`, without repeating it; None for a well-formed key."""
    if not text.startswith(MARK):
        return f"it does not begin with {MARK}"
    if len(text) != KEY_LENGTH:
        return f"it has {len(text)} characters instead of {KEY_LENGTH}"
    if not _KEY.fullmatch(text):
        return f"a character after {MARK} is not an ASCII letter or digit"
    return None if parse(text) else "its check digits are wrong: a character differs from the key that was created"


def is_prefix(text: str) -> bool:
    """Whether `text` has the shape of a stored prefix."""
    return _PREFIX.fullmatch(text) is not None


def presented_prefix(text: str) -> str | None:
    """The prefix at the beginning of a presented credential, well-formed or not; None when it begins otherwise."""
    prefix = text[:PREFIX_LENGTH]
    return prefix if is_prefix(prefix) else None


def check_digits(body: str) -> str:
    """The CRC-32 of `body` (ASCII) as six base62 digits, most significant first."""
    value, digits = crc32(body.encode("ascii")), ""
    for _ in range(CHECK_LENGTH):
        value, digit = divmod(value, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
