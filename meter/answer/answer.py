"""One proxied answer as a state machine: headers, then chunks, then a result. Pure.

The body is one of three kinds: a stream of frames, a whole JSON answer, an error body. A frame passes only when it is
complete and counted, so the count is never less than what the caller received. An answer that ends wrongly ends with
an error in the caller's dialect. The length of the body may change on the way, so a `content-length` cannot stay.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import Code, Denied
from gateway.record.grant import Grant
from gateway.values import NO_USAGE, Outcome, Usage
from gateway.wire.media_types import JSON, NDJSON, accepted_type
from gateway.wire.names import NOT_AN_ANSWER
from gateway.wire.surfaces import BY_NAME, Dialect
from meter.answer.echoes import Echo, echoes_of
from meter.answer.error_body import ERROR_BODY_BYTES_MAX, ErrorBody
from meter.answer.framing import NdjsonSplitter, SseSplitter
from meter.answer.result import AnswerResult
from meter.answer.stream import Stream
from meter.answer.token_size import TokenSizes
from meter.answer.usage import UsageFold
from meter.answer.whole import Whole
from meter.frames.recognition import media_type_of


class Body(Protocol):
    """One kind of body. `outcome` is None while the body is open and may still change until the answer ends."""

    outcome: Outcome | None

    @property
    def code(self) -> Code | None:
        """The code of an answer that ended with a failure."""
        ...

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | Denied | None:
        """Takes the next bytes; returns the bytes that replace them, or None to pass them unchanged.

        Denied is the error for the caller in place of an answer of which nothing has passed. Sets `outcome` at the end
        of the stream at the latest. The outcomes `complete` and `cut` end the answer at once.
        """
        ...

    def abort(self) -> Outcome | None:
        """The outcome when the stream closed without its end, None when the body was not complete."""
        ...


class Answer:
    """Call `headers`, then `chunk` for each piece of the body until there is a `result`, or `abort` without one.

    A complete answer adds its sample to `token_sizes`.
    """

    def __init__(self, grant: Grant, token_sizes: TokenSizes | None = None) -> None:
        self.result: AnswerResult | None = None
        # The code of a backend's error, known with its head.
        self.error_code: Code | None = None
        self.surface = BY_NAME[grant.surface]
        self._grant = grant
        self._token_sizes = token_sizes or TokenSizes()
        token_size = self._token_sizes.get(grant.tenant_id, grant.model)
        self._fold = UsageFold(grant.input_estimate, grant.output_cap, token_size)
        self._body: Body | None = None
        self._echoes: tuple[Echo, ...] = ()
        self._has_failed = False

    def headers(self, status: int, content_type: str) -> int:
        """Takes the backend's status and content type; returns the status for the caller."""
        media_type = media_type_of(content_type)
        body = self._body_of(media_type) if status == 200 else None
        if body is not None:
            self._body = body
            self._echoes = echoes_of(self._grant, framed=isinstance(body, Stream))
            return status
        error_status = NOT_AN_ANSWER if 200 <= status < 300 else status
        self._has_failed = True
        error = ErrorBody(self._grant, error_status, media_type)
        self._body, self.error_code = error, error.code
        return error.caller_status

    @property
    def is_whole(self) -> bool:
        """Whether the answer is one JSON value, of which nothing has to pass before it is complete."""
        return isinstance(self._body, Whole)

    def hold_error(self, body_bytes: int) -> bool:
        """Whether the head of an error, whose body has `body_bytes` bytes (0: unknown), waits for its body."""
        if not isinstance(self._body, ErrorBody) or not 0 < body_bytes <= ERROR_BODY_BYTES_MAX:
            return False
        self._body.is_held = self._body.may_be_overflow
        return self._body.is_held

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | Denied | None:
        """Takes the next bytes, which may be empty; returns their replacement, or None to pass them unchanged.

        Denied is the error for the caller when these bytes are no answer. Afterwards `result` is set if the answer is
        complete, the stream ended, or it has to be cut after these bytes. Raises RuntimeError before the headers and
        when there is a result.
        """
        if self._body is None or self.result is not None:
            raise RuntimeError("a chunk belongs between the headers and the result of an answer")
        body = self._body.chunk(data, end_of_stream)
        self._has_failed = self._has_failed or isinstance(body, Denied)
        outcome = self._body.outcome
        if outcome is not None and (end_of_stream or outcome in (Outcome.COMPLETE, Outcome.CUT)):
            self.result = self._result(outcome)
        for echo in self._echoes:
            if not isinstance(body, Denied):
                body = echo.restore(data if body is None else body, end_of_stream)
        return body

    @property
    def delivered(self) -> Usage:
        """The usage of what has passed so far, for the progress of the hold."""
        return NO_USAGE if self._has_failed else self._fold.usage

    def abort(self) -> AnswerResult:
        """The stream closed without its end. Returns the result, which is the existing one if there is one.

        An answer that was complete at that point is complete. For any other the caller is presumed to have left.
        """
        if self.result is None:
            outcome = self._body.abort() if self._body else None
            if outcome is None:
                presumed = self._body is not None
                self.result = AnswerResult(Outcome.CLIENT_GONE, None, self.delivered, is_presumed=presumed)
            else:
                self.result = self._result(outcome)
        return self.result

    def _result(self, outcome: Outcome) -> AnswerResult:
        if outcome is Outcome.COMPLETE and (sample := self._fold.sample):
            self._token_sizes.learn(self._grant.tenant_id, self._grant.model, sample)
        return AnswerResult(outcome, self._body.code if self._body else None, self.delivered)

    def _body_of(self, media_type: str) -> Body | None:
        """The reader of a 200 with this media type, None when it is not one that the request accepts."""
        accepted = accepted_type(self.surface, stream=self._grant.stream)
        if media_type == JSON and accepted in (JSON, NDJSON):
            # Ollama answers the request for a stream with one object when it only loads a model.
            return Whole(self.surface, self._fold)
        if media_type != accepted:
            return None
        splitter = NdjsonSplitter() if self.surface.dialect is Dialect.NATIVE else SseSplitter()
        return Stream(self._grant, self.surface, splitter, self._fold)
