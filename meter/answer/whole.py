"""An answer that is one JSON value. Pure.

Generated text is held until it is read. Vectors pass at once, because no cap applies to them.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import STATUS, Code
from gateway.record.grant import Grant
from gateway.values import Outcome
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import Surface
from meter.answer.backend_errors import sanitised_body
from meter.answer.framing import FrameTooLong, WholeBody
from meter.answer.stream import OVER_CAP
from meter.answer.usage import UsageFold
from meter.frames.frame import FrameRead
from meter.frames.readers import parse_frame, read_tail

# A longer answer (vectors, log probabilities) passes while it arrives and is read from its tail.
WHOLE_BYTES_MAX = 1024 * 1024
TAIL_BYTES = 4096


class Whole:
    """The body of an answer that came in one piece of JSON; `fold` takes its usage."""

    def __init__(self, grant: Grant, surface: Surface, fold: UsageFold) -> None:
        self.outcome: Outcome | None = None
        self._request_id = grant.request_id
        self._surface = surface
        self._fold = fold
        self._is_generated = surface.cap_field is not None
        self._splitter: WholeBody | None = WholeBody(WHOLE_BYTES_MAX)
        self._bytes = 0
        self._tail = b""
        self._well_formed = True

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | None:
        """Holds `data` or passes it. The last chunk releases the held answer, or an error in its place."""
        self._bytes += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        out = data
        if self._splitter is not None:
            try:
                self._splitter.feed(data)
                out = b"" if self._is_generated else data
            except FrameTooLong as too_long:
                self._splitter = None
                out = too_long.held if self._is_generated else data
        if end_of_stream:
            out = self._finish(out)
        return None if out == data else out

    def abort(self) -> Outcome | None:
        """The outcome of an answer whose stream closed without its end.

        A complete document still gives its usage, half a document gives none. Text that was held never reached the
        caller, so its outcome stays open.
        """
        if self.outcome is None and self._bytes:
            held = self._flush()
            read, document = self._read(held)
            if document is not None or not held:
                self._take(read)
            if self._is_generated and held:
                self.outcome = None
        return self.outcome

    def _finish(self, out: bytes) -> bytes:
        held = self._flush()
        read, document = self._read(held)
        self._take(read)
        if self._splitter is None or not self._is_generated:
            return out
        dialect = self._surface.dialect
        if self.outcome is Outcome.CUT:
            return error_body(dialect, Code.BACKEND_ERROR, OVER_CAP, self._request_id)
        if not self._well_formed:
            return sanitised_body(dialect, STATUS[Code.BACKEND_ERROR], held, document, self._request_id)
        return held

    def _flush(self) -> bytes:
        frames = self._splitter.flush() if self._splitter else []
        return frames[0].raw if frames else b""

    def _read(self, held: bytes) -> tuple[FrameRead, dict[str, Any] | None]:
        if held:
            return parse_frame(self._surface, held, whole=True)
        return read_tail(self._tail, self._bytes if self._is_generated else 0), None

    def _take(self, read: FrameRead) -> None:
        self._fold.add(read)
        # An unfinished text is still the caller's, so it counts as well-formed.
        self._well_formed = self._bytes > 0 and not read.unreadable and read.error is None
        if self._fold.over_cap:
            self.outcome = Outcome.CUT
        elif self._well_formed and read.terminal:
            self.outcome = Outcome.COMPLETE
        else:
            self.outcome = Outcome.UPSTREAM_ERROR
