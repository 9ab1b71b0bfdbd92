"""The one place that finds the key in the headers of a request. Pure.

Clients send it as `Authorization: Bearer`, as `x-api-key` (Anthropic), or as the password of `Authorization: Basic`
(those that have only a URL). Some send another credential as well, such as that of another service or an empty header.
"""

from __future__ import annotations

import base64
import binascii

from pydantic import SecretStr

from authz.keys.key_format import MARK


def find_credential(authorization: str | None, api_key: str | None) -> SecretStr | None:
    """The credential that counts: the one that looks like a key of this gateway, else any other that is present.

    None means that the request has no credential, so that its sender has guessed nothing. Two different keys are an
    empty credential, which is never valid.
    """
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
