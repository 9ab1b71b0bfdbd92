from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.request.ssh_public_key import SshPublicKey, parse_line, raw_key
from tests.ssh_identity import OllamaIdentity

# Made by ssh-keygen, which printed this fingerprint.
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFdP7YqvtlgtXolzL6it9UtVjX//eCaoSO8/GseCrAKb anna@laptop"
FINGERPRINT = "SHA256:5IOPKQglhiVXEvUjUdGiIZG2DL/fE+wSMH7XJYdoLcU"


def test_the_fingerprint_is_the_one_of_ssh_keygen() -> None:
    key = parse_line(LINE)
    assert (key.fingerprint, key.comment, key.line) == (FINGERPRINT, "anna@laptop", LINE)


def test_the_key_has_the_bytes_that_its_library_encodes() -> None:
    identity = OllamaIdentity()
    encoded = identity.private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    assert parse_line(encoded.decode()) == SshPublicKey(identity.public.blob)
    assert raw_key(identity.public.blob) == identity.private.public_key().public_bytes_raw()


def test_blanks_around_the_line_and_a_missing_comment_are_accepted() -> None:
    blob = OllamaIdentity().public.blob
    assert parse_line(f"  ssh-ed25519  {blob}\n") == SshPublicKey(blob, "")
    assert parse_line(f"ssh-ed25519 {blob} the old  laptop \n") == SshPublicKey(blob, "the old  laptop")


def _ecdsa() -> str:
    key = derive_private_key(1, SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


# Every worker of pytest-xdist must collect the same parameters.
BLOB = OllamaIdentity(Ed25519PrivateKey.from_private_bytes(bytes(32))).public.blob


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "one line"),
        ("ssh-ed25519", "one line"),
        (f"ssh-ed25519 {BLOB} a\nssh-ed25519 {BLOB} b", "one line"),
        (_ecdsa(), "type ssh-ed25519"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAA", "type ssh-ed25519"),
        # The type is right, and the blob is that of another curve.
        ("ssh-ed25519 " + _ecdsa().split()[1], "not the base64"),
        (f"ssh-ed25519 {BLOB[:-4]}", "not the base64"),
        (f"ssh-ed25519 {BLOB}AAAA", "not the base64"),
        (f"ssh-ed25519 {BLOB[:-1]}!", "not the base64"),
        (f"ssh-ed25519 {BLOB[:-1]}", "not the base64"),
        ("ssh-ed25519 ﾃ", "not the base64"),
        (f"ssh-ed25519 {BLOB} {'x' * 101}", "comment"),
        (f"ssh-ed25519 {BLOB} a\x07b", "comment"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA", "private key"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        parse_line(text)
    assert len(text) < 20 or text.split()[-1] not in str(refused.value)


def test_a_blob_has_one_spelling() -> None:
    decoded = base64.b64decode(BLOB)
    assert raw_key(BLOB) is not None
    assert raw_key(base64.b64encode(decoded + b"\0").decode()) is None
    assert raw_key(BLOB + "\n") is None
