"""The values of the OTEL_* settings, in the formats of OpenTelemetry's specification. Pure.

Formats: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, Field, SecretStr

from gateway.settings.field_types import INTEGER_MAX

_HEADER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_EXPECTED = "expected NAME=VALUE pairs, separated by commas, with percent-encoded values"


def read_pairs(text: str) -> dict[str, str]:
    """The pairs of `NAME=VALUE,NAME=VALUE`, whose values are percent-encoded. Raises ValueError."""
    pairs = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(_EXPECTED)
        pairs[name.strip()] = unquote(value.strip())
    return pairs


def _attributes(text: str) -> str:
    read_pairs(text)
    return text


def _headers(text: SecretStr) -> SecretStr:
    """Envoy and the exporter of the services send these headers, so each must be a valid one."""
    for name, value in read_pairs(text.get_secret_value()).items():
        if not _HEADER_NAME.fullmatch(name) or not value or not all(" " <= character <= "~" for character in value):
            raise ValueError("expected valid headers as NAME=VALUE pairs, separated by commas")
    return text


Attributes = Annotated[str, AfterValidator(_attributes)]
Headers = Annotated[SecretStr, AfterValidator(_headers)]
ServiceName = Annotated[str, Field(min_length=1, max_length=255)]
Sampler = Literal[
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
    "always_on",
    "always_off",
    "traceidratio",
]
Ratio = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[int, Field(ge=1, le=INTEGER_MAX)]
