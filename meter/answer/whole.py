"""An answer that is one JSON value. Pure.

It is held until it is read, so that a body that is not an answer becomes an error of the gateway. A longer one than
WHOLE_BYTES_MAX (vectors, log probabilities) passes and is read from its tail; the hold filter has recognised it.
"""

from __future__ import annotations

from gateway.errors import Code, Denied
from gateway.values import Outcome
from gateway.wire.surfaces import Surface
from meter.answer.stream import OVER_CAP
from meter.answer.usage import UsageFold
from meter.frames.frame import FrameRead
from meter.frames.readers import parse_frame, read_tail
from meter.frames.text_frames import read_text_answer

WHOLE_BYTES_MAX = 1024 * 1024
TAIL_BYTES = 4096


class Whole:
    """The body of an answer that came in one piece of JSON; `fold` takes its usage."""

    def __init__(self, surface: Surface, fold: UsageFold) -> None:
        self.outcome: Outcome | None = None
        self.code: Code | None = None
        self._surface = surface
        self._fold = fold
        self._is_generated = surface.cap_field is not None
        self._held = bytearray()
        self._released = False
        self._bytes = 0
        self._tail = b""

    def chunk(self, data: bytes, end_of_stream: bool) -> bytes | Denied | None:
        """Holds `data`, or passes it once the answer is too long to hold. The last chunk releases a held answer."""
        if end_of_stream and not self._bytes and len(data) <= WHOLE_BYTES_MAX:
            # Envoy holds almost every whole answer and sends it in one message.
            self._bytes = len(data)
            return self._take(self._read(data))
        self._bytes += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        if self._released:
            if end_of_stream:
                self._take(self._read_tail())
            return None
        self._held += data
        if not end_of_stream and len(self._held) <= WHOLE_BYTES_MAX:
            return b""
        held = bytes(self._held)
        denied = None
        if len(held) > WHOLE_BYTES_MAX:
            self._held.clear()
            self._released = True
            if end_of_stream:
                self._take(self._read_tail())
        else:
            denied = self._take(self._read(held))
        return denied or (None if held == data else held)

    def abort(self) -> Outcome | None:
        """The outcome of an answer whose stream closed without its end.

        A complete document still gives its usage, half a document gives none. Text that was held never reached the
        caller, so its outcome stays open.
        """
        if self.outcome is None and self._released:
            self._take(self._read_tail())
        elif self.outcome is None and self._held:
            read = self._read(bytes(self._held))
            if not read.unreadable:
                self._fold.add(read)
        return self.outcome

    def _read(self, body: bytes) -> FrameRead:
        text = read_text_answer(self._surface.answer_shape, body)
        return parse_frame(self._surface, body, whole=True)[0] if text is None else text

    def _read_tail(self) -> FrameRead:
        return read_tail(self._tail, self._bytes if self._is_generated else 0)

    def _take(self, read: FrameRead) -> Denied | None:
        """Sets the outcome; returns the error that replaces the answer, None when it passes.

        An unfinished text passes, because Ollama's repeat guard ends a whole answer so.
        """
        is_answer = self._bytes > 0 and not read.unreadable and read.error is None
        if is_answer:
            self._fold.add(read)
        if is_answer and not self._fold.over_cap:
            self.outcome = Outcome.COMPLETE if read.terminal else Outcome.CUT
            return None
        self.outcome = Outcome.CUT if is_answer else Outcome.UPSTREAM_ERROR
        self.code = Code.BACKEND_ERROR
        return Denied(self.code, OVER_CAP if is_answer else None)
