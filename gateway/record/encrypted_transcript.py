"""The request and the answer of a prompt log's row, encrypted to a public key.

Hybrid Public Key Encryption, RFC 9180, in its base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
The meter has the public key only, so neither a meter nor the database reveals what was recorded. The request id is part
of the `info`, so that the content of a row cannot be moved into another row.

An encrypted row has the text `encrypted:1:KEY_ID:BASE64` as its request, and an empty answer. No other request begins
like this, because every recorded request is a JSON object.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from gateway.errors import GatewayError, SettingsError

_MARK = "encrypted:1:"
_INFO = b"prompt-log/1\n"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_KEY_ID_CHARACTERS = 16


class TranscriptRefused(GatewayError):
    """The content of a row was changed, or moved from another row."""


class TranscriptEncryptor:
    """Encrypts with the public key of a PEM file (SubjectPublicKeyInfo). Raises SettingsError without such a key."""

    def __init__(self, path: Path) -> None:
        try:
            key = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"PROMPT_LOG_PUBLIC_KEY_FILE={path}: {error.strerror}") from None
        except ValueError:
            key = None
        if not isinstance(key, X25519PublicKey):
            raise SettingsError(f"PROMPT_LOG_PUBLIC_KEY_FILE={path}: expected the PEM file of an X25519 public key")
        self._key = key
        self.key_id = _id_of(key)

    def encrypt(self, request_id: str, request: str, response: str) -> str:
        """The encrypted text of one row."""
        content = json.dumps([request, response]).encode()
        encrypted = _SUITE.encrypt(content, self._key, _info(request_id))
        return f"{_MARK}{self.key_id}:{base64.b64encode(encrypted).decode()}"


def read_private_keys(*paths: Path) -> dict[str, X25519PrivateKey]:
    """The private keys of PEM files (PKCS #8) by their ids. Raises SettingsError for a file without such a key."""
    keys = {}
    for path in paths:
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise SettingsError(f"the key file {path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, X25519PrivateKey):
            raise SettingsError(f"{path} is not the PEM file of an X25519 private key without a passphrase")
        keys[_id_of(key.public_key())] = key
    return keys


def key_id_of(request: str) -> str | None:
    """The id of the key that a row is encrypted with, None for a row in clear text."""
    return request.removeprefix(_MARK).partition(":")[0] if request.startswith(_MARK) else None


def decrypt(request_id: str, request: str, keys: Mapping[str, X25519PrivateKey]) -> tuple[str, str]:
    """The request and the answer of an encrypted row.

    Raises KeyError without its key, and TranscriptRefused for a content that was not encrypted for this request.
    """
    key_id, _, encoded = request.removeprefix(_MARK).partition(":")
    key = keys[key_id]
    try:
        content = json.loads(_SUITE.decrypt(base64.b64decode(encoded, validate=True), key, _info(request_id)))
    except (InvalidTag, ValueError, binascii.Error):
        raise TranscriptRefused(f"the prompt log's row of request {request_id} was changed") from None
    return content[0], content[1]


def _id_of(key: X25519PublicKey) -> str:
    return sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_CHARACTERS]


def _info(request_id: str) -> bytes:
    return _INFO + request_id.encode()
