"""Errors that become the response of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.media_types import JSON_UTF8


class ApiError(Exception):
    """The response is an error with this status and message.

    `always_native`: the error has Ollama's own shape on every surface, because it precedes the converter.
    `at_binding`: the code that reads the body writes the error, with a charset and without a final newline.
    `fields`: more members of the native error object.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        always_native: bool = False,
        at_binding: bool = False,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.always_native = always_native
        self.at_binding = at_binding
        self.fields = dict(fields or {})
        self.headers: Mapping[str, str] = {}


def native_error(error: ApiError) -> tuple[str, bytes]:
    """Content type and body in Ollama's own shape: `error` is a string."""
    return JSON_UTF8, gojson.dump({"error": error.message, **error.fields})
