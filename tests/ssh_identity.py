"""An Ollama installation's key, and the headers and query that its client signs with it."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.request.ssh_public_key import SshPublicKey

_BLOB_START = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"


@dataclass(frozen=True)
class OllamaIdentity:
    """The key pair of `~/.ollama/id_ed25519`."""

    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    comment: str = "anna@laptop"

    @property
    def public(self) -> SshPublicKey:
        """What `~/.ollama/id_ed25519.pub` holds."""
        raw = self.private.public_key().public_bytes_raw()
        return SshPublicKey(base64.b64encode(_BLOB_START + raw).decode(), self.comment)

    def authorization(self, message: str) -> str:
        """The header, as auth.Sign of Ollama makes it: `BLOB:SIGNATURE` over `message`."""
        return f"{self.public.blob}:{base64.b64encode(self.private.sign(message.encode())).decode()}"

    def signed(self, method: str, path: str, at_s: float | None = None) -> tuple[str, str]:
        """The path with its query and the Authorization header, as api.Client of Ollama sends them at `at_s`."""
        target = f"{path}?ts={int(time.time() if at_s is None else at_s)}"
        return target, self.authorization(f"{method},{target}")
