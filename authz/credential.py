"""The one place that finds the credential of a request: a key in its headers, or the signature of an identity. Pure.

Clients send a key as `Authorization: Bearer`, as `x-api-key` (Anthropic), or as the password of `Authorization: Basic`
(those that have only a URL). Some send another credential as well, such as that of another service or an empty header.
Ollama's own client can sign its requests instead (`authz.keys.signed_request`).
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeAlias

from pydantic import SecretStr

from authz.keys.key_format import MARK
from authz.keys.signed_request import SignedRequest, parse_signed_request

Credential: TypeAlias = SecretStr | SignedRequest
"""What a caller presents: a secret, which may be anything, or a well-formed signature."""

# The base64 of every SSH public key begins so: its first four bytes are a small number.
_BLOB_MARK = "AAAA"


def find_credential(
    authorization: str | None, api_key: str | None, *, method: str, target: str, received_at_s: float
) -> Credential | None:
    """The credential that counts: the one that looks like a key of this gateway, else any other that is present.

    None means that the request has no credential, so that its sender has guessed nothing. Two different keys are an
    empty credential, which is never valid. `method`, `target` (the path with its query) and `received_at_s` (seconds
    since the epoch) are those of the request; a signature covers the first two.
    """
    has_key = (api_key or "").strip().startswith(MARK)
    if authorization and authorization.lstrip().startswith(_BLOB_MARK) and not has_key:
        signed = parse_signed_request(authorization, method, target, received_at_s)
        if signed is not None:
            return signed
    presented = [each for each in (_of_authorization(authorization or ""), (api_key or "").strip()) if each]
    keys = {each for each in presented if each.startswith(MARK)}
    if len(keys) > 1:
        return SecretStr("")
    return SecretStr(next(iter(keys), presented[0])) if presented else None


def _of_authorization(value: str) -> str:
    """The token of Bearer, or the password of Basic; the whole value under any other scheme."""
    scheme, _, token = value.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return token.strip()
        case "basic":
            return _password(token.strip())
        case _:
            return value.strip()


def _password(token: str) -> str:
    """The password in the token of Basic, empty when there is none. Source: RFC 7617, 2."""
    try:
        user_pass = base64.b64decode(token, validate=True).decode()
    except (binascii.Error, ValueError):
        return token
    return user_pass.partition(":")[2]
