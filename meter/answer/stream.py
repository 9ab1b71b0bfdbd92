"""An answer as a stream of frames, each of which passes as soon as it is complete and counted. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import Code
from gateway.record.grant import Grant
from gateway.values import Outcome
from gateway.wire.surfaces import Dialect, Surface
from meter.answer.backend_errors import BackendErrors
from meter.answer.failure_frame import FailureFrame
from meter.answer.framing import Frame, FrameTooLong, Splitter
from meter.answer.usage import UsageFold
from meter.answer.usage_report import without_usage
from meter.frames.readers import parse_frame
from meter.frames.text_frames import read_text_frame

# An upper bound on the frames of an answer, empty ones included. A backend that sends more never stops.
FRAMES_PER_TOKEN_MAX = 8
FRAMES_EXTRA_MAX = 4096

INCOMPLETE = "the model backend ended the answer before it was complete"
OVER_CAP = "the model backend exceeded the output limit of this request"
TOO_LONG = "the model backend sent a frame that is too long to read"
ENDLESS = "the model backend did not end its answer"
UNREADABLE = "the model backend sent a frame that is not valid for this endpoint"


class Stream:
    """The body of a streamed answer; `fold` counts its frames."""

    def __init__(self, grant: Grant, surface: Surface, splitter: Splitter, fold: UsageFold) -> None:
        self.outcome: Outcome | None = None
        self._grant = grant
        self._failure_frame = FailureFrame(surface, grant.request_id)
        self._is_first = True
        self._surface = surface
        self._splitter = splitter
        self._fold = fold
        self._strips_usage = grant.strip_usage and surface.usage_on_request
        self._skips_blank = surface.dialect is Dialect.NATIVE
        self._frames_left = FRAMES_EXTRA_MAX + FRAMES_PER_TOKEN_MAX * grant.output_cap

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | None:
        """The frames that `data` completes, up to the one that completes the answer or reports its failure.

        Nothing after that frame is counted or passed on, wherever the chunks are cut. A stream that ends without it
        gets an error frame.
        """
        if not end_of_stream and self.outcome is None and self._frames_left > 0 and not self._splitter.held:
            # Ollama writes each frame at once, so a chunk is almost always one frame, and almost every frame is text.
            text = read_text_frame(self._surface.answer_shape, data)
            if text is not None:
                self._frames_left -= 1
                self._is_first = False
                self._fold.add(text)
                return self._cut([], OVER_CAP) if self._fold.over_cap else None
        out: list[bytes] = []
        too_long = None
        try:
            frames = self._splitter.feed(data)
        except FrameTooLong as caught:
            frames, too_long = caught.frames, TOO_LONG
        problem = self._take_all(frames, out)
        if problem is None and self.outcome is None:
            problem = too_long
        if problem is None and end_of_stream:
            problem = self._take_all(self._splitter.flush(), out, unfinished=True)
        if problem is not None:
            return self._cut(out, problem)
        if end_of_stream and self.outcome is None:
            self.outcome = Outcome.UPSTREAM_ERROR
            out.append(self._failure_frame.build(INCOMPLETE))
        body = b"".join(out)
        return None if body == data else body

    def abort(self) -> Outcome | None:
        """The outcome so far: the frame that completes the answer may have come before the stream broke off."""
        return self.outcome

    @property
    def code(self) -> Code | None:
        """The code of a failure."""
        return None if self.outcome is Outcome.COMPLETE else Code.BACKEND_ERROR

    def _take_all(self, frames: Iterable[Frame], out: list[bytes], *, unfinished: bool = False) -> str | None:
        """Takes frames up to the one that ends the answer; returns a reason if the stream has to be cut."""
        for frame in frames:
            if self.outcome is not None:
                break
            if problem := self._take(frame, out, unfinished=unfinished):
                return problem
        return None

    def _take(self, frame: Frame, out: list[bytes], *, unfinished: bool = False) -> str | None:
        """Counts a frame and appends the bytes for the caller; returns a reason if the stream has to be cut.

        An `unfinished` last frame, which has no terminator, is useless to a client unless it ends the answer. A blank
        line of NDJSON is left out, because ollama-python reads every line as JSON.
        """
        self._frames_left -= 1
        if self._frames_left < 0:
            return ENDLESS
        if not frame.data and self._skips_blank:
            return None
        read, document = read_text_frame(self._surface.answer_shape, frame.raw), None
        if read is None:
            read, document = parse_frame(self._surface, frame.data, first=self._is_first)
        if frame.data:
            self._is_first = False
        if unfinished and (read.unreadable or not (read.terminal or read.error)):
            return None
        if read.unreadable:
            return UNREADABLE
        self._fold.add(read)
        if self._fold.over_cap:
            return OVER_CAP
        if read.error is not None:
            self.outcome = Outcome.UPSTREAM_ERROR
            out.append(self._failure_frame.build(BackendErrors(self._grant).message(read.error, document)))
            return None
        if read.terminal:
            self.outcome = Outcome.COMPLETE
        self._failure_frame.observe(document)
        out.append(without_usage(frame, read, document) if self._strips_usage else frame.raw)
        return None

    def _cut(self, out: list[bytes], message: str) -> bytes:
        self.outcome = Outcome.CUT
        return b"".join([*out, self._failure_frame.build(message)])
