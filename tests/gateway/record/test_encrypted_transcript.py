"""Rows of the prompt log that are encrypted to a public key."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SettingsError
from gateway.record.encrypted_transcript import (
    TranscriptEncryptor,
    TranscriptRefused,
    decrypt,
    key_id_of,
    read_private_keys,
)


def write_key(directory: Path, name: str = "prompts") -> tuple[Path, Path]:
    """The files of a new private key and of its public key, as openssl writes them."""
    key = X25519PrivateKey.generate()
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_key(tmp_path_factory.mktemp("keys"))


@given(request=st.text(), response=st.text())
def test_only_the_private_key_opens_a_row(files: tuple[Path, Path], request: str, response: str) -> None:
    private, public = files
    encryptor = TranscriptEncryptor(public)
    encrypted = encryptor.encrypt("id", request, response)
    assert key_id_of(encrypted) == encryptor.key_id
    assert encrypted != encryptor.encrypt("id", request, response)
    assert decrypt("id", encrypted, read_private_keys(private)) == (request, response)


def test_a_row_that_was_changed_or_moved_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = files
    keys = read_private_keys(private)
    encrypted = TranscriptEncryptor(public).encrypt("id", '{"q": 1}', "answer")
    head, _, encoded = encrypted.rpartition(":")
    content = bytearray(base64.b64decode(encoded))
    assert b"answer" not in content
    content[-1] ^= 1
    for request_id, row in (
        ("other", encrypted),
        ("id", f"{head}:{base64.b64encode(content).decode()}"),
        ("id", head + ":AA"),
    ):
        with pytest.raises(TranscriptRefused, match=request_id):
            decrypt(request_id, row, keys)
    with pytest.raises(KeyError):
        decrypt("id", encrypted, read_private_keys(write_key(tmp_path)[0]))


def test_a_request_in_clear_text_has_no_key() -> None:
    assert key_id_of('{"prompt": "encrypted:1:x:y"}') is None


def test_a_file_without_such_a_key_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = files
    other = tmp_path / "ed25519"
    other.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for path in (private, tmp_path / "missing", other):
        with pytest.raises(SettingsError, match=f"PROMPT_LOG_PUBLIC_KEY_FILE={path}"):
            TranscriptEncryptor(path)
    for path in (public, tmp_path / "missing", other):
        with pytest.raises(SettingsError, match=str(path)):
            read_private_keys(path)
