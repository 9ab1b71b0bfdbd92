"""The body of a backend's error: held, and replaced if it would show the caller what belongs to the operator. Pure."""

from __future__ import annotations

from gateway.errors import MESSAGE, Code, Denied, upstream_code
from gateway.record.grant import Grant
from gateway.values import Outcome
from gateway.wire.dialects import error_body
from gateway.wire.media_types import JSON
from gateway.wire.surfaces import BY_NAME
from meter.answer import context_overflow
from meter.answer.backend_errors import BackendErrors, caller_status
from meter.frames.readers import load_object

ERROR_BODY_BYTES_MAX = 64 * 1024


class ErrorBody:
    """The body of an error; `status` is the backend's, or NOT_AN_ANSWER for a 2xx whose body is not an answer.

    On these surfaces Ollama's only 404 means that it does not have the model. The caller then gets the same bytes as
    for any model that no backend hosts.
    """

    def __init__(self, grant: Grant, status: int, media_type: str) -> None:
        self.outcome: Outcome | None = Outcome.UPSTREAM_ERROR
        self._is_missing_model = status == 404 and media_type == JSON
        self.caller_status = grant.refusal_status if self._is_missing_model else caller_status(status)
        self.code = Code.MODEL_NOT_ALLOWED if self._is_missing_model else upstream_code(self.caller_status)
        self._grant = grant
        self._status = status
        self._media_type = media_type
        # Whether Envoy holds the head until this has read the body, so that the head can still change.
        self.is_held = False
        self._held = b""

    @property
    def may_be_overflow(self) -> bool:
        """Whether the body can be the refusal of a long prompt, which has another code than the head."""
        return self._status in context_overflow.STATUSES and self._media_type == JSON

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | Denied | None:
        """Nothing until the last chunk. A body beyond ERROR_BODY_BYTES_MAX is no longer JSON and is replaced."""
        self._held = (self._held + data)[:ERROR_BODY_BYTES_MAX]
        if not end_of_stream:
            return b""
        if self._is_missing_model:
            dialect, request_id = BY_NAME[self._grant.surface].dialect, self._grant.request_id
            return error_body(dialect, self.code, MESSAGE[self.code], request_id, status=self.caller_status)
        document = load_object(self._held)
        if self.is_held and (message := context_overflow.overflow_in(document, self._grant)):
            self.code = Code.CONTEXT_LENGTH_EXCEEDED
            return Denied(self.code, message)
        return BackendErrors(self._grant).body(self._status, document)

    def abort(self) -> Outcome | None:
        """A backend's refusal is a failure of the backend, however much of it arrived."""
        return self.outcome
