"""The public key of an Ollama installation, as `~/.ollama/id_ed25519.pub` holds it: an OpenSSH Ed25519 key. Pure.

Sources: RFC 4253, 6.6 and RFC 8709, 4 (the blob); sshd(8), AUTHORIZED_KEYS FILE FORMAT (the line).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

KEY_TYPE = "ssh-ed25519"
COMMENT_LENGTH_MAX = 100
_KEY_BYTES = 32
# The string "ssh-ed25519" and the length of the string that follows it.
_BLOB_START = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"


@dataclass(frozen=True, slots=True)
class SshPublicKey:
    """An Ed25519 key. `blob` is the base64 of its SSH encoding, which has one spelling per key."""

    blob: str
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint as `ssh-keygen -l` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """The line of a `.pub` file."""
        return " ".join(filter(None, (KEY_TYPE, self.blob, self.comment)))


def parse_line(text: str) -> SshPublicKey:
    """Reads the line of a `.pub` file. Raises ValueError, whose text never repeats `text`."""
    if "PRIVATE KEY" in text:
        raise ValueError("that is a private key; its public key is in the file that ends with .pub")
    fields = text.split(None, 2)
    if len(fields) < 2 or len(text.strip().splitlines()) != 1:
        raise ValueError(f"expected one line: {KEY_TYPE} AAAA… comment")
    if fields[0] != KEY_TYPE:
        raise ValueError(f"expected a key of the type {KEY_TYPE}, the only one that Ollama has")
    if raw_key(fields[1]) is None:
        raise ValueError(f"what follows {KEY_TYPE} is not the base64 of such a key")
    comment = fields[2].strip() if len(fields) > 2 else ""
    if len(comment) > COMMENT_LENGTH_MAX or not comment.isprintable():
        raise ValueError(f"expected a comment of at most {COMMENT_LENGTH_MAX} printable characters")
    return SshPublicKey(fields[1], comment)


def raw_key(blob: str) -> bytes | None:
    """The 32 bytes of the Ed25519 key in the base64 of a blob; None for any other text or type of key."""
    try:
        decoded = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(decoded) != len(_BLOB_START) + _KEY_BYTES or not decoded.startswith(_BLOB_START):
        return None
    return decoded[len(_BLOB_START) :]
