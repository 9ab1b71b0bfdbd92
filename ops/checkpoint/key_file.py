"""The file with the private key that signs checkpoints. It is not in the database, and only its owner may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.errors import SettingsError
from ops.checkpoint.signed_note import PrivateKey


def read(path: Path) -> PrivateKey:
    """Reads the key. Raises SettingsError without a readable file of mode 0600 or stricter, and NoteRefused."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except FileNotFoundError:
        raise SettingsError(f"there is no key file {path}; --new-key creates it") from None
    except OSError as error:
        raise SettingsError(f"the key file {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise SettingsError(f"the key file {path} has mode {mode:04o}, so others may use it: chmod 600 {path}")
    return PrivateKey.from_text(text)


def read_or_create(path: Path, name: str) -> PrivateKey:
    """Reads the key, or creates a new one with this name in a file of mode 0600 if there is none.

    Of two processes that create the same file, one succeeds. Raises SettingsError and NoteRefused.
    """
    if path.exists():
        return read(path)
    key = PrivateKey.generate(name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"the key file {path} cannot be created: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.secret_text + "\n")
    return key
