"""One proxied answer as a state machine: headers, chunks, end. Pure; the gRPC edge drives it and obeys its decisions.

Three kinds of body: a stream of frames, a whole JSON answer, a refusal. A frame is handed on only when it is whole and
counted, so what is counted is never less than what the caller got, and an answer that ends wrongly ends with an error
in the caller's own dialect. The body's length may change on the way, so a `content-length` cannot stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.errors import STATUS, Code
from gateway.record.grant import Grant
from gateway.values import Outcome, Usage
from gateway.wire.dialects import error_body, error_frame
from gateway.wire.surfaces import BY_NAME, Dialect, Surface
from meter.answer.backend_errors import caller_status, sanitised_body, sanitised_frame
from meter.answer.framing import Frame, FrameTooLong, NdjsonSplitter, Splitter, SseSplitter, WholeBody
from meter.answer.usage import UsageFold
from meter.answer.usage_report import without_usage
from meter.frames.readers import load_object, parse_frame, read_frame, read_tail

# A whole answer is held to be read; a longer one (vectors, log probabilities) is passed on and read from its tail.
WHOLE_BYTES_MAX = 1024 * 1024
TAIL_BYTES = 4096
ERROR_BODY_BYTES_MAX = 64 * 1024
# No backend sends more frames, empty ones included, than some for each token, and some beside.
FRAMES_PER_TOKEN_MAX = 8
FRAMES_BESIDE_MAX = 4096

INCOMPLETE = "the model backend ended the answer before it was complete"
OVER_CAP = "the model backend went past the output limit of this request"
TOO_LONG = "the model backend sent an answer that is too long to read"
ENDLESS = "the model backend did not come to an end"
UNREADABLE = "the model backend sent what is no answer of this endpoint"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one chunk: `body` takes its place (None: it goes on as it is), `cut` ends the answer after it."""

    body: bytes | None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """How the answer ended; `usage` has the source `none` when the backend answered an error."""

    outcome: Outcome
    code: Code | None
    usage: Usage


class Answer:
    """One answer. Call `headers`, then `chunk` for each piece of the body, then `end`, once, whatever happened."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._fold = UsageFold(grant.input_estimate, grant.output_cap)
        self._body: _Body | None = None

    def headers(self, status: int, content_type: str) -> int:
        """Takes the backend's status and content type; returns the status that the caller is to see."""
        surface = BY_NAME[self._grant.surface]
        if not 200 <= status < 300:
            self._body = _ErrorBody(self._grant, surface.dialect, status)
            return caller_status(status)
        kind = content_type.partition(";")[0].strip().lower()
        if self._grant.stream and (splitter := _stream_splitter(surface, kind)):
            self._body = _Stream(self._grant, surface, splitter, self._fold)
        else:
            self._body = _Whole(self._grant, surface, self._fold)
        return status

    def chunk(self, data: bytes, end_of_stream: bool) -> Decision:
        """Decides on the next bytes of the body, which may be none when the stream ends with them."""
        if self._body is None:
            raise RuntimeError("a chunk came before the headers")
        if self._body.outcome is Outcome.CUT:
            return Decision(b"", cut=True)
        return self._body.chunk(data, end_of_stream)

    @property
    def delivered(self) -> Usage:
        """The usage of what was handed on so far, for the progress of the hold."""
        return Usage() if isinstance(self._body, _ErrorBody) else self._fold.usage

    def end(self, aborted: bool) -> AnswerResult:
        """Closes the account. `aborted`: the stream went away without its end, which usually is the caller leaving."""
        outcome = self._body.close() if self._body else None
        if outcome is None:
            outcome = Outcome.CLIENT_GONE if aborted else Outcome.UPSTREAM_ERROR
        failed = outcome in (Outcome.CUT, Outcome.UPSTREAM_ERROR)
        return AnswerResult(outcome, Code.BACKEND_ERROR if failed else None, self.delivered)


def _stream_splitter(surface: Surface, kind: str) -> Splitter | None:
    """The splitter of a granted stream, or None when the backend chose to answer whole."""
    if surface.dialect is Dialect.NATIVE:
        # A single object, as a load is answered, is a line without its end.
        return NdjsonSplitter()
    return None if kind == "application/json" else SseSplitter()


class _Body(Protocol):
    """`outcome` is None as long as it is open."""

    outcome: Outcome | None

    def chunk(self, data: bytes, end_of_stream: bool) -> Decision: ...

    def close(self) -> Outcome | None: ...


class _Stream:
    """Frames, handed on as soon as each is whole and counted."""

    def __init__(self, grant: Grant, surface: Surface, splitter: Splitter, fold: UsageFold) -> None:
        self.outcome: Outcome | None = None
        self._grant = grant
        self._surface = surface
        self._splitter = splitter
        self._fold = fold
        self._strips = grant.strip_usage and surface.usage_on_request
        self._frames_left = FRAMES_BESIDE_MAX + FRAMES_PER_TOKEN_MAX * grant.output_cap

    def chunk(self, data: bytes, end_of_stream: bool) -> Decision:
        out: list[bytes] = []
        too_long = None
        try:
            frames = self._splitter.feed(data)
        except FrameTooLong as caught:
            frames, too_long = caught.frames, TOO_LONG
        for frame in frames:
            if problem := self._take(frame, out):
                return self._cut(out, problem)
        if too_long:
            return self._cut(out, too_long)
        for frame in self._splitter.flush() if end_of_stream else ():
            if problem := self._take(frame, out, unfinished=True):
                return self._cut(out, problem)
        if end_of_stream and self.outcome is None:
            self.outcome = Outcome.UPSTREAM_ERROR
            out.append(self._error_frame(INCOMPLETE))
        body = b"".join(out)
        return Decision(None if body == data else body)

    def close(self) -> Outcome | None:
        return self.outcome

    def _take(self, frame: Frame, out: list[bytes], *, unfinished: bool = False) -> str | None:
        """Counts a frame and appends what the caller gets of it; returns why the stream has to be cut, if so.

        An `unfinished` last frame, which has no terminator, is worth nothing to a client unless it ends the answer.
        A blank line of NDJSON is left out, because ollama-python reads every line as JSON.
        """
        self._frames_left -= 1
        if self._frames_left < 0:
            return ENDLESS
        if not frame.data and self._surface.dialect is Dialect.NATIVE:
            return None
        read, document = parse_frame(self._surface, frame.data)
        if unfinished and (read.unreadable or (self.outcome is None and not (read.terminal or read.error))):
            return None
        if read.unreadable:
            return UNREADABLE
        self._fold.add(read)
        if self._fold.over_cap:
            return OVER_CAP
        if read.error is not None:
            self.outcome = Outcome.UPSTREAM_ERROR
            out.append(sanitised_frame(self._surface.dialect, frame.raw, frame.data, self._grant.request_id))
            return None
        if read.terminal and self.outcome is None:
            self.outcome = Outcome.COMPLETE
        out.append(without_usage(frame, read, document) if self._strips else frame.raw)
        return None

    def _cut(self, out: list[bytes], message: str) -> Decision:
        self.outcome = Outcome.CUT
        return Decision(b"".join([*out, self._error_frame(message)]), cut=True)

    def _error_frame(self, message: str) -> bytes:
        return error_frame(self._surface.dialect, Code.BACKEND_ERROR, message, self._grant.request_id)


class _Whole:
    """One JSON value: held until it is read where text was generated, passed on at once where only vectors come."""

    def __init__(self, grant: Grant, surface: Surface, fold: UsageFold) -> None:
        self.outcome: Outcome | None = None
        self._grant = grant
        self._surface = surface
        self._fold = fold
        self._generates = surface.cap_field is not None
        self._splitter: WholeBody | None = WholeBody(WHOLE_BYTES_MAX)
        self._bytes = 0
        self._tail = b""
        self._well_formed = True

    def chunk(self, data: bytes, end_of_stream: bool) -> Decision:
        self._bytes += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        out = data
        if self._splitter is not None:
            try:
                self._splitter.feed(data)
                out = b"" if self._generates else data
            except FrameTooLong as too_long:
                self._splitter = None
                out = too_long.held if self._generates else data
        if end_of_stream:
            return self._finish(data, out)
        return Decision(None if out == data else out)

    def _finish(self, data: bytes, out: bytes) -> Decision:
        held = self._flush()
        self._read(held)
        if self._splitter is not None and self._generates:
            dialect, request_id = self._surface.dialect, self._grant.request_id
            out = held
            if self.outcome is Outcome.CUT:
                out = error_body(dialect, Code.BACKEND_ERROR, OVER_CAP, request_id)
            elif not self._well_formed:
                out = sanitised_body(dialect, STATUS[Code.BACKEND_ERROR], held, request_id)
        return Decision(None if out == data else out, cut=self.outcome is Outcome.CUT)

    def close(self) -> Outcome | None:
        """Without the end of the stream: an answer that is all there still gives its limit_status, half of one none."""
        if self.outcome is None and self._bytes:
            held = self._flush()
            if not held or load_object(held) is not None:
                self._read(held)
            if self._generates and held:
                # It was held, so the caller never got it.
                self.outcome = None
        return self.outcome

    def _flush(self) -> bytes:
        frames = self._splitter.flush() if self._splitter else []
        return frames[0].raw if frames else b""

    def _read(self, held: bytes) -> None:
        if held:
            read = read_frame(self._surface, held, whole=True)
        else:
            read = read_tail(self._tail, self._bytes if self._generates else 0)
        self._fold.add(read)
        # A text that the backend left unfinished is the caller's all the same.
        self._well_formed = self._bytes > 0 and not read.unreadable and read.error is None
        if self._fold.over_cap:
            self.outcome = Outcome.CUT
        elif self._well_formed and read.terminal:
            self.outcome = Outcome.COMPLETE
        else:
            self.outcome = Outcome.UPSTREAM_ERROR


class _ErrorBody:
    """An answer that is no 200: held, and replaced where it would tell a caller what is not theirs."""

    def __init__(self, grant: Grant, dialect: Dialect, status: int) -> None:
        self.outcome: Outcome | None = Outcome.UPSTREAM_ERROR
        self._grant = grant
        self._dialect = dialect
        self._status = status
        self._held = b""

    def chunk(self, data: bytes, end_of_stream: bool) -> Decision:
        # A body that is cut short here is no JSON any more, so it is replaced.
        self._held = (self._held + data)[:ERROR_BODY_BYTES_MAX]
        if not end_of_stream:
            return Decision(b"")
        return Decision(sanitised_body(self._dialect, self._status, self._held, self._grant.request_id))

    def close(self) -> Outcome | None:
        return self.outcome
