"""The configuration of the Ollama backends, and the values that it accepts. Pure."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from gateway.settings.field_types import HeaderName, as_number, empty_is_none


def _base_url(url: str) -> str:
    """A URL of scheme, host, optional port and optional path, without credentials, query or a slash at the end."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong in a URL; use the auth_token")
    if parts.query or parts.fragment:
        raise ValueError("expected no query or fragment")
    path = parts.path.rstrip("/")
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*", path):
        raise ValueError("expected a path of letters, digits, dots, hyphens, underscores and tildes")
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", parts.hostname):
        raise ValueError("expected a host of letters, digits, dots and hyphens, or an address")
    if not _has_port(parts):
        raise ValueError("expected a port from 1 to 65535")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is valid or missing. The message of urlsplit would repeat the text after the colon."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _backend_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ValueError("expected a name of 1 to 40 lower-case letters, digits and hyphens")
    return name


def _token(token: SecretStr) -> SecretStr:
    """A token is sent in a header, so it must be a valid header value."""
    text = token.get_secret_value()
    if not all(" " <= character <= "~" for character in text) or text != text.strip():
        raise ValueError("expected a token of visible ASCII characters, without line breaks and surrounding blanks")
    return token


def _credential_header(name: str) -> str:
    """A header only for credentials, because Envoy strips the credential headers from the requests to all backends."""
    if name.lower() in _OTHER_HEADERS or name.lower().startswith(("x-envoy-", "x-forwarded-", "x-nz-")):
        raise ValueError("expected a header that carries nothing else, such as Authorization or X-API-Key")
    return name


def _slots(value: object) -> object:
    number = as_number(value)
    if value != "auto" and not (type(number) is int and 1 <= number <= _SLOTS_MAX):
        raise ValueError(f"expected a number from 1 to {_SLOTS_MAX:,}, or auto")
    return number


_SLOTS_MAX = 100_000
_OTHER_HEADERS = frozenset(
    "accept accept-encoding connection content-encoding content-length content-type date expect forwarded host "
    "keep-alive te trailer transfer-encoding upgrade user-agent via x-request-id".split()
)


# The slots of a replica: how many requests it runs at a time. `auto` means that the gateway learns the number.
Slots = Annotated[int | Literal["auto"], BeforeValidator(_slots)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
OptionalUrl = Annotated[BaseUrl | None, BeforeValidator(empty_is_none)]
CredentialHeader = Annotated[HeaderName, AfterValidator(_credential_header)]
CredentialScheme = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{0,64}$")]
Token = Annotated[SecretStr, AfterValidator(_token)]


class Backend(BaseModel):
    """One Ollama cluster, whose replicas host the same models and accept the same credentials."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_backend_name)]
    base_url: BaseUrl
    auth_token: Token | None = None
    auth_header: CredentialHeader = "Authorization"
    auth_scheme: CredentialScheme = "Bearer"
    replicas: tuple[BaseUrl, ...] = ()
    ca_file: Path | None = None
    slots: Slots = "auto"

    @model_validator(mode="before")
    @classmethod
    def _without_weight(cls, fields: Any) -> Any:
        # Earlier versions accepted a weight and never used it.
        if isinstance(fields, dict) and "weight" in fields:
            raise ValueError("`weight` has no effect, because backends are tried in the order of the list; remove it")
        return fields

    @model_validator(mode="after")
    def _one_scheme_and_path(self) -> Backend:
        if len({urlsplit(url).scheme for url in self.urls}) > 1:
            raise ValueError("base_url and replicas must all be http or all be https")
        if len({urlsplit(url).path for url in self.urls}) > 1:
            raise ValueError("base_url and replicas must all have the same path")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all replicas, `base_url` first."""
        return tuple(dict.fromkeys((self.base_url, *self.replicas)))

    @property
    def path(self) -> str:
        """What precedes the paths of Ollama at every replica, such as `/ollama`; usually empty."""
        return urlsplit(self.base_url).path

    @property
    def addresses(self) -> tuple[str, ...]:
        """`HOST[:PORT]` of all replicas."""
        return tuple(urlsplit(url).netloc for url in self.urls)

    @property
    def slots_given(self) -> int:
        """The slots of a replica, 0 for `auto`."""
        return self.slots if isinstance(self.slots, int) else 0

    def credential(self) -> tuple[str, SecretStr] | None:
        """The header name and value that Envoy sends to the backend, None without a token.

        Only `Authorization` has the scheme; any other header has the raw token.
        """
        if self.auth_token is None or not self.auth_token.get_secret_value():
            return None
        token = self.auth_token.get_secret_value()
        if self.auth_header.lower() == "authorization" and self.auth_scheme:
            token = f"{self.auth_scheme} {token}"
        return self.auth_header, SecretStr(token)


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return ()
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON list of backends ({error.msg} at character {error.pos})") from None


def _unique_names(value: tuple[Backend, ...]) -> tuple[Backend, ...]:
    names = [backend.name for backend in value]
    if len(names) != len(set(names)):
        raise ValueError("expected every backend to have a different name")
    return value


Backends = Annotated[tuple[Backend, ...], NoDecode, BeforeValidator(_parsed), AfterValidator(_unique_names)]
