"""The authorities that backends' certificates must be from, as their `ca_file`s hold them now."""

from __future__ import annotations

import ssl

from gateway.errors import SettingsError
from gateway.settings import Settings


def read(settings: Settings) -> dict[str, bytes]:
    """Backend name -> content of its `ca_file`, of those that have one.

    Raises SettingsError for a file that holds no certificate which can be read.
    """
    found = {}
    for backend in settings.backends:
        if backend.ca_file is None:
            continue
        try:
            ssl.create_default_context(cafile=backend.ca_file)
            found[backend.name] = backend.ca_file.read_bytes()
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no PEM certificate"
            raise SettingsError(
                f"OLLAMA_BACKENDS: the ca_file {backend.ca_file} of {backend.name} cannot be used: {reason}"
            ) from None
    return found
