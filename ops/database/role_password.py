"""The SQL that gives a role its password. It needs no database library, so that `up` can use it before it forks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

# PostgreSQL's default for `scram_iterations`.
_SCRAM_ITERATIONS = 4096


def with_password(role: str, password: str, *, exists: bool) -> str:
    """Returns the statement that creates a role with a login and a password, or changes an existing one. Pure."""
    return f"{'ALTER' if exists else 'CREATE'} ROLE {quoted(role)} LOGIN PASSWORD '{scram_verifier(password)}'"


def quoted(name: str) -> str:
    """Returns the name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def scram_verifier(password: str) -> str:
    """Returns the verifier that PostgreSQL stores for a normalised password (RFC 5802).

    It is sent instead of the password because statements may be logged.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_64, stored_64, server_64 = (base64.b64encode(each).decode() for each in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt_64}${stored_64}:{server_64}"
