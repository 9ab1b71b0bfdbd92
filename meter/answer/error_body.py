"""The body of a backend's error: held, and replaced if it would show the caller what belongs to the operator. Pure."""

from __future__ import annotations

from gateway.errors import upstream_code
from gateway.values import Outcome
from gateway.wire.surfaces import Dialect
from meter.answer.backend_errors import caller_status, sanitised_body
from meter.frames.readers import load_object

ERROR_BODY_BYTES_MAX = 64 * 1024


class ErrorBody:
    """The body of an error; `status` is the backend's, or NOT_AN_ANSWER for a 2xx whose body is not an answer."""

    def __init__(self, dialect: Dialect, status: int, request_id: str) -> None:
        self.outcome: Outcome | None = Outcome.UPSTREAM_ERROR
        self.code = upstream_code(caller_status(status))
        self._dialect = dialect
        self._status = status
        self._request_id = request_id
        self._held = b""

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | None:
        """Nothing until the last chunk. A body beyond ERROR_BODY_BYTES_MAX is no longer JSON and is replaced."""
        self._held = (self._held + data)[:ERROR_BODY_BYTES_MAX]
        if not end_of_stream:
            return b""
        return sanitised_body(self._dialect, self._status, self._held, load_object(self._held), self._request_id)

    def abort(self) -> Outcome | None:
        """A backend's refusal is a failure of the backend, however much of it arrived."""
        return self.outcome
