"""A request that the Ed25519 key of an Ollama installation signs, instead of presenting a secret. Pure.

Ollama's command line with OLLAMA_AUTH=1 and the Go package `api` send `Authorization: BLOB:SIGNATURE`, both in base64.
The signature covers `METHOD,PATH?ts=SECONDS`; the same `ts` is the query of the request. The body is not signed.
Source: ollama/ollama at fb30760, auth/auth.go (Sign) and api/client.go (Client.do and Client.stream).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.request.ssh_public_key import raw_key
from gateway.values import Refusal

# 51 bytes of a public key and 64 bytes of a signature.
_AUTHORIZATION = re.compile(r"(AAAA[0-9A-Za-z+/]{64}):([0-9A-Za-z+/]{86}==)")
_SECONDS = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A well-formed signature, which may be wrong. `blob` is the base64 of the public key that is presented.

    `signed_at_s` is the time that the client states and `received_at_s` that of the request's arrival, both in seconds
    since the epoch.
    """

    blob: str
    signature: bytes
    message: bytes
    signed_at_s: int
    received_at_s: float

    def refusal(self, window_s: float) -> Refusal | None:
        """Why the signature does not count, given that the identity is registered; None for one that does.

        It counts when it was made at most `window_s` before or after the arrival. A window of 0 accepts no signature.
        """
        if window_s <= 0 or abs(self.received_at_s - self.signed_at_s) > window_s:
            return Refusal.OUTSIDE_WINDOW
        return None if self._is_genuine() else Refusal.WRONG_SIGNATURE

    def _is_genuine(self) -> bool:
        key = raw_key(self.blob)
        if key is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, self.message)
        except InvalidSignature:
            return False
        return True


def parse_signed_request(authorization: str, method: str, target: str, received_at_s: float) -> SignedRequest | None:
    """The signature in the header of a request; None for a header or a query of another shape. Never raises.

    `target` is the path with its query, as the request line has it. Everything in the query counts as signed, and it
    must have exactly one `ts`.
    """
    match = _AUTHORIZATION.fullmatch(authorization.strip())
    signed_at_s = _signed_at_s(target)
    if match is None or signed_at_s is None or raw_key(match[1]) is None:
        return None
    message = f"{method},{target}".encode("utf-8", "surrogateescape")
    return SignedRequest(match[1], base64.b64decode(match[2]), message, signed_at_s, received_at_s)


def _signed_at_s(target: str) -> int | None:
    """The value of the only `ts` in the query."""
    pairs = [pair.partition("=") for pair in target.partition("?")[2].split("&")]
    times = [value for name, _, value in pairs if name == "ts"]
    return int(times[0]) if len(times) == 1 and _SECONDS.fullmatch(times[0]) else None
