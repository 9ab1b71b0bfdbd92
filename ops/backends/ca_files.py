"""The certificate authorities of the backends, read from their `ca_file`s."""

from __future__ import annotations

import ssl

from gateway.errors import SettingsError
from gateway.settings import Settings


def read(settings: Settings) -> dict[str, bytes]:
    """Backend name -> content of its `ca_file`, for the backends that have one.

    Raises SettingsError for a file without a readable certificate.
    """
    authorities = {}
    for backend in settings.backends:
        if backend.ca_file is None:
            continue
        try:
            ssl.create_default_context(cafile=backend.ca_file)
            authorities[backend.name] = backend.ca_file.read_bytes()
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no PEM certificate"
            raise SettingsError(
                f"OLLAMA_BACKENDS: the ca_file {backend.ca_file} of {backend.name} cannot be used: {reason}"
            ) from None
    return authorities
