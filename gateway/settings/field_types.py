"""The types of settings and the values that each of them accepts. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from gateway.settings import postgres_url, sentinel_url
from gateway.settings.personal_data import PersonalData

INTEGER_MAX = 2**31 - 1
"""The largest PostgreSQL integer."""
TOKENS_MAX = 2**53 - 1
"""The largest number of tokens: Redis scripts compute with doubles, which are exact up to here."""


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _listen(value: str) -> str:
    if value.startswith("unix:"):
        if not value.startswith("unix:/"):
            raise ValueError("expected unix:/absolute/path")
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("expected HOST:PORT or unix:/absolute/path")
    return value


def _bind_host(value: str) -> str:
    """An IP address, because Envoy does not resolve the name of an address to bind."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("expected an IP address, such as 127.0.0.1, or 0.0.0.0 for all addresses") from None


def as_number(value: object) -> object:
    """The digits of a setting as a number, for types that only accept certain numbers."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def empty_is_none(value: object) -> object:
    """A setting with an empty value is not set."""
    return None if value == "" else value


def _postgres(value: SecretStr) -> SecretStr:
    url = value.get_secret_value().replace("postgresql+asyncpg://", "postgresql://", 1)
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError(postgres_url.EXPECTED)
    return SecretStr(postgres_url.supported(url))


def _redis(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if sentinel_url.is_sentinel_url(url):
        sentinel_url.parse(url)
    elif not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("expected redis://, rediss://, unix:// or redis+sentinel://")
    elif not _has_valid_port(url):
        raise ValueError("expected a port from 0 to 65535, and a password with its special characters escaped")
    return value


def _has_valid_port(url: str) -> bool:
    """Whether `url` has a valid port or none. The message of urlsplit is dropped: it may repeat half a password."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _networks(value: list[str]) -> list[str]:
    for item in value:
        try:
            ip_network(item, strict=False)
        except ValueError:
            raise ValueError("expected IP addresses or networks, such as 10.0.0.0/8, separated by commas") from None
    return value


def _origins(value: list[str]) -> list[str]:
    """Origins as browsers send them: `scheme://host[:port]` in lower case, without a slash at the end; or `*`."""
    for origin in value:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError("expected origins such as https://chat.example.com, separated by commas, or *")
    return [origin.lower() for origin in value]


def _request_id_header(value: str) -> str:
    # Envoy overwrites the header in every answer, so a header with another meaning would be destroyed.
    if not value.lower().endswith("id"):
        raise ValueError("expected a name that ends with ID, such as X-Request-ID or X-Correlation-ID")
    return value


def _role(value: str) -> str:
    if len(value.encode()) > 63 or "\0" in value:
        raise ValueError("expected the name of a PostgreSQL role, of at most 63 bytes")
    return value


def _password(value: SecretStr) -> SecretStr:
    # PostgreSQL clients differ in how they normalize other characters.
    text = value.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("expected printable ASCII characters")
    return value


BindHost = Annotated[str, AfterValidator(_bind_host)]
# Of browsers and desktop applications: https://host, http://localhost:3000, app://obsidian.md, chrome-extension://id.
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")
Origins = Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_origins)]
Networks = Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_networks)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")]
RequestIdHeader = Annotated[HeaderName, AfterValidator(_request_id_header)]
Address = Annotated[str, AfterValidator(_listen)]
OptionalAddress = Annotated[Address | None, BeforeValidator(empty_is_none)]
PersonalDataKinds = Annotated[list[PersonalData], NoDecode, BeforeValidator(_split)]
OptionalFile = Annotated[Path | None, BeforeValidator(empty_is_none)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres)]
OptionalPostgresUrl = Annotated[PostgresUrl | None, BeforeValidator(empty_is_none)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis)]
OptionalRole = Annotated[Annotated[str, AfterValidator(_role)] | None, BeforeValidator(empty_is_none)]
OptionalPassword = Annotated[Annotated[SecretStr, AfterValidator(_password)] | None, BeforeValidator(empty_is_none)]
Addresses = Annotated[list[Address], NoDecode, BeforeValidator(_split)]
# Envoy takes timeouts in whole milliseconds and rejects those of centuries. A year serves as unlimited.
Seconds = Annotated[float, Field(ge=0.001, le=31_536_000)]
QueueWait = Annotated[float, Field(ge=0, le=3600)]
IdentityWindow = Annotated[float, Field(ge=0, le=3600)]
Days = Annotated[int, Field(ge=1, le=36_500)]
# Envoy's circuit breakers are 32-bit numbers, and one of them is a multiple of this.
Connections = Annotated[int, Field(ge=1, le=100_000_000)]
# Envoy and the services hold a body twice, and their buffers are 32-bit numbers.
BodyBytes = Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)]
Count = Annotated[int, Field(ge=1, le=INTEGER_MAX)]
Tokens = Annotated[int, Field(ge=1, le=TOKENS_MAX)]
