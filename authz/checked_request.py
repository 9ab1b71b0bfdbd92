"""One attempt of somebody to use the gateway, as plain values: what the two edges (gRPC and HTTP) hand to the core."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from gateway.wire.surfaces import Dialect, dialect_of


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """`path` is without query. `key` is what was presented as a key, None when nothing was."""

    request_id: str
    method: str
    path: str
    key: SecretStr | None
    client_ip: str
    user_agent: str
    content_encoding: str
    body: bytes

    @property
    def dialect(self) -> Dialect:
        """The dialect in which a refusal is written."""
        return dialect_of(self.path)


def presented_key(authorization: str | None, api_key: str | None) -> SecretStr | None:
    """The key of `Authorization: Bearer …`, else of `x-api-key`. Anything else in Authorization is no key."""
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        return SecretStr(token.strip()) if scheme.lower() == "bearer" else None
    return SecretStr(api_key.strip()) if api_key is not None else None
