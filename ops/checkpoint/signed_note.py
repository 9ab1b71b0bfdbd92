"""Signs and verifies notes with Ed25519, in the format of C2SP (https://c2sp.org/signed-note).

Keys are lines of text as Go's golang.org/x/mod/sumdb/note reads and writes them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.errors import GatewayError

_ED25519 = b"\x01"
_SIGNATURE = re.compile(r"\u2014 (\S+) (\S+)")
_PRIVATE_KEY = re.compile(r"PRIVATE\+KEY\+([^\s+]+)\+([0-9a-f]{8})\+(\S+)")
_PUBLIC_KEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)")


class NoteRefused(GatewayError):
    """A note has no valid signature of the key, or the text is no note or no key."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies notes. `name` is not empty and has no blank and no plus sign."""

    name: str
    key: Ed25519PublicKey

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Reads `NAME+ID+KEY`. Raises NoteRefused."""
        name, key_id, encoded = _fields(_PUBLIC_KEY, text, "public key")
        public = cls(name, Ed25519PublicKey.from_public_bytes(encoded))
        if public.key_id.hex() != key_id:
            raise NoteRefused("the id of the public key does not belong to it")
        return public

    @property
    def text(self) -> str:
        """The key as `NAME+ID+KEY`: the id in hexadecimal, the signature type and the key in base64."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.key.public_bytes_raw())}"

    @property
    def key_id(self) -> bytes:
        """The four bytes that name this key in a signature."""
        identity = self.name.encode() + b"\n" + _ED25519 + self.key.public_bytes_raw()
        return hashlib.sha256(identity).digest()[:4]

    def verified_text(self, note: str) -> str:
        """Returns the text of a note, up to and including its last newline before the signatures.

        Signatures of other keys are ignored. Raises NoteRefused unless this key signed the note and all of its
        signatures are valid.
        """
        text, separator, signatures = note.rpartition("\n\n")
        if not separator or not signatures.endswith("\n"):
            raise NoteRefused("the text is not a signed note")
        text += "\n"
        own = [each for each in map(_signature, signatures.splitlines()) if each[:2] == (self.name, self.key_id)]
        if not own:
            raise NoteRefused(f"the key {self.name}+{self.key_id.hex()} has not signed the note")
        for _, _, signature in own:
            try:
                self.key.verify(signature, text.encode())
            except InvalidSignature:
                raise NoteRefused("the signature does not match the text of the note") from None
        return text


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs notes. Its repr does not contain the secret."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str) -> PrivateKey:
        """Returns a new key."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_text(cls, text: str) -> PrivateKey:
        """Reads `PRIVATE+KEY+NAME+ID+SEED`. Raises NoteRefused, whose text contains nothing of the key."""
        name, key_id, seed = _fields(_PRIVATE_KEY, text, "private key")
        private = cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        if private.public.key_id.hex() != key_id:
            raise NoteRefused("the id of the private key does not belong to it")
        return private

    @property
    def secret_text(self) -> str:
        """The key as `PRIVATE+KEY+NAME+ID+SEED`: the signature type and the 32 bytes of the seed in base64."""
        return f"PRIVATE+KEY+{self.name}+{self.public.key_id.hex()}+{_base64(_ED25519 + self.key.private_bytes_raw())}"

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this key signs."""
        return PublicKey(self.name, self.key.public_key())

    def sign(self, text: str) -> str:
        """Returns the note of `text`, which ends with a newline and has no other control character."""
        signature = self.public.key_id + self.key.sign(text.encode())
        return f"{text}\n\u2014 {self.name} {_base64(signature)}\n"


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Returns the name, the key id and the signature of a signature line."""
    match = _SIGNATURE.fullmatch(line)
    try:
        signature = base64.b64decode(match[2], validate=True) if match else b""
    except binascii.Error:
        signature = b""
    if match is None or len(signature) < 5:
        raise NoteRefused("the note has a line that is not a signature")
    return match[1], signature[:4], signature[4:]


def _fields(pattern: re.Pattern[str], text: str, kind: str) -> tuple[str, str, bytes]:
    """Returns the name, the key id and the 32 bytes of a key."""
    match = pattern.fullmatch(text.strip())
    try:
        encoded = base64.b64decode(match[3], validate=True) if match else b""
    except binascii.Error:
        encoded = b""
    if match is None or encoded[:1] != _ED25519 or len(encoded) != 33:
        raise NoteRefused(f"the text is not the {kind} of a signed note")
    return match[1], match[2], encoded[1:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
