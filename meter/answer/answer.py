"""One proxied answer as a state machine: headers, then chunks, then a result. Pure.

The body is one of three kinds: a stream of frames, a whole JSON answer, an error body. A frame passes only when it is
complete and counted, so the count is never less than what the caller received. An answer that ends wrongly ends with
an error in the caller's dialect. The length of the body may change on the way, so a `content-length` cannot stay.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import Code, upstream_code
from gateway.record.grant import Grant
from gateway.values import NO_USAGE, Outcome, Usage
from gateway.wire.surfaces import BY_NAME, Dialect, Surface
from meter.answer.backend_errors import caller_status
from meter.answer.error_body import ErrorBody
from meter.answer.framing import NdjsonSplitter, Splitter, SseSplitter
from meter.answer.model_spelling import ModelSpelling
from meter.answer.result import AnswerResult
from meter.answer.stream import Stream
from meter.answer.usage import UsageFold
from meter.answer.whole import Whole


class Body(Protocol):
    """One kind of body. `outcome` is None while the body is open and may still change until the answer ends."""

    outcome: Outcome | None

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | None:
        """Takes the next bytes; returns the bytes that replace them, or None to pass them unchanged.

        Sets `outcome` at the end of the stream at the latest. The outcomes `complete` and `cut` end the answer at once.
        """
        ...

    def abort(self) -> Outcome | None:
        """The outcome when the stream closed without its end, None when the body was not complete."""
        ...


class Answer:
    """Call `headers`, then `chunk` for each piece of the body until there is a `result`, or `abort` without one."""

    def __init__(self, grant: Grant) -> None:
        self.result: AnswerResult | None = None
        self._grant = grant
        self._fold = UsageFold(grant.input_estimate, grant.output_cap)
        self._body: Body | None = None
        self._spelling: ModelSpelling | None = None
        self._error_code: Code | None = None

    def headers(self, status: int, content_type: str) -> int:
        """Takes the backend's status and content type; returns the status for the caller."""
        surface = BY_NAME[self._grant.surface]
        if not 200 <= status < 300:
            status_for_caller = caller_status(status)
            self._error_code = upstream_code(status_for_caller)
            self._body = ErrorBody(surface.dialect, status, self._grant.request_id)
            return status_for_caller
        media_type = content_type.partition(";")[0].strip().lower()
        if self._grant.stream and (splitter := _stream_splitter(surface, media_type)):
            self._body = Stream(self._grant, surface, splitter, self._fold)
        else:
            self._body = Whole(self._grant, surface, self._fold)
        self._spelling = ModelSpelling.of(self._grant, framed=isinstance(self._body, Stream))
        return status

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | None:
        """Takes the next bytes, which may be empty; returns their replacement, or None to pass them unchanged.

        Afterwards `result` is set if the answer is complete, the stream ended, or it has to be cut after these bytes.
        Raises RuntimeError before the headers and when there is a result.
        """
        if self._body is None or self.result is not None:
            raise RuntimeError("a chunk belongs between the headers and the result of an answer")
        body = self._body.chunk(data, end_of_stream)
        outcome = self._body.outcome
        if outcome is not None and (end_of_stream or outcome in (Outcome.COMPLETE, Outcome.CUT)):
            self.result = self._result(outcome)
        if self._spelling is not None:
            body = self._spelling.respell(data if body is None else body, end_of_stream)
        return body

    @property
    def delivered(self) -> Usage:
        """The usage of what has passed so far, for the progress of the hold."""
        return NO_USAGE if self._error_code else self._fold.usage

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
        failed = outcome in (Outcome.CUT, Outcome.UPSTREAM_ERROR)
        code = (self._error_code or Code.BACKEND_ERROR) if failed else None
        return AnswerResult(outcome, code, self.delivered)


def _stream_splitter(surface: Surface, media_type: str) -> Splitter | None:
    """The splitter of a granted stream, or None when the backend chose to answer whole."""
    if surface.dialect is Dialect.NATIVE:
        # A single object, such as the answer to a load, is a line without its terminator.
        return NdjsonSplitter()
    return None if media_type == "application/json" else SseSplitter()
