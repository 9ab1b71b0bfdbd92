"""Removes secrets from everything that a service logs, wherever they are: event, key, value, nested, or in a traceback.

Code must not log a secret in the first place. This is the second line, for texts whose content the code does not know,
such as the message of a driver's exception.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Set
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, SecretStr

from gateway.settings import Settings
from gateway.settings.telemetry import read_pairs

MASK = "***"
# Shorter secrets would also mask parts of ordinary words.
LITERAL_CHARACTERS_MIN = 5
# Containers that are nested deeper are logged as their masked repr.
_DEPTH_MAX = 6

_URL_PASSWORD = re.compile(r"://[^\s/:@\"']*:([^\s/\"']+)@")
_QUERY_PASSWORD = re.compile(r"(?:^|[?&])\w*password=([^&\s\"']+)", re.IGNORECASE)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # The prefix of a key (its first twelve characters) is public, see authz.keys.key_format.
    (re.compile(r"(nz_[0-9A-Za-z]{9})[0-9A-Za-z]+"), rf"\1{MASK}"),
    (re.compile(r"(\b(?:Bearer|Basic)(?:\s|%20)+)[^\s\"',;\\]+", re.IGNORECASE), rf"\1{MASK}"),
    # The signature of an Ollama installation: the base64 of a public key blob, a colon and the signature.
    (re.compile(r"AAAAC3NzaC1lZDI1NTE5[0-9A-Za-z+/=]*(?::[0-9A-Za-z+/=_-]+)?"), MASK),
    (re.compile(r"(\b(?:set-)?cookie[\"']?\s*[:=]\s*[\"']?)[^\r\n\"']+", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"(\b(?:proxy-)?(?:authorization|x-api-key|password|passwd|secret|auth_?token)[\"']?\s*[:=]\s*[\"']?)"
            r"(?!Bearer\b|Basic\b)[^\s\"',;&]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(://[^\s/:@\"']*:)[^\s/\"']+@"), rf"\1{MASK}@"),
)
_SECRET_FIELD = re.compile(
    r"^(?:.*[_-])?(?:authorization|cookie|api[_-]?key|password|passwd|secret|(?:auth|access|bearer)[_-]?token|token)$",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"[0-9A-Za-z+/_-]{24,}={0,2}")


class Redaction:
    """A processor of structlog that masks `secrets` and all credentials that it recognises by their form."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= LITERAL_CHARACTERS_MIN for form in _forms(secret)}
        # The longest first, because one secret may begin like another.
        ordered = sorted(forms, key=len, reverse=True)
        self._literals = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """The event without secrets."""
        return {self.text(name): self._masked(value, name) for name, value in event.items()}

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._literals is not None:
            text = self._literals.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return _BASE64.sub(_mask_encoded_key, text)

    def _masked(self, value: Any, name: str = "", depth: int = 0) -> Any:
        if isinstance(value, str):
            return MASK if value and _SECRET_FIELD.match(name) else self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping) and depth < _DEPTH_MAX:
            return {self.text(str(key)): self._masked(each, str(key), depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple | Set) and depth < _DEPTH_MAX:
            return [self._masked(each, name, depth + 1) for each in value]
        # As the renderer writes it.
        return self.text(value.decode(errors="replace") if isinstance(value, bytes) else repr(value))


def secrets_of(settings: Settings) -> set[str]:
    """Every secret in the settings: the values, the passwords in URLs and the headers of the trace collector.

    Passwords and headers are included as they are written and decoded.
    """
    found = set(read_pairs(settings.otel_exporter_otlp_headers.get_secret_value()).values())
    for value in _secret_values(settings):
        if "://" not in value:
            found.add(value)
            continue
        for pattern in (_URL_PASSWORD, _QUERY_PASSWORD):
            for password in pattern.findall(value):
                found |= {password, unquote(password)}
    return found - {""}


def _secret_values(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secret_values(getattr(value, name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secret_values(each)


def _forms(secret: str) -> Iterator[str]:
    """The secret as it is written in text, in a URL, in JSON, and in a repr."""
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]


def _mask_encoded_key(match: re.Match[str]) -> str:
    """Masks base64 that contains a key of this gateway, such as the credentials of Basic without the scheme."""
    text = match.group()
    try:
        content = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_")
    except (binascii.Error, ValueError):
        return text
    return MASK if b"nz_" in content else text
