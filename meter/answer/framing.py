"""Splits chunks into frames incrementally and keeps every byte. Pure; never sees a socket.

A chunk is a piece of the body as the network delivered it. A frame is one NDJSON line or one server-sent event. The
raw bytes of all frames, joined, equal the input, wherever the chunks were cut.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

# The longest frame of a real answer is a last one that repeats the whole text or carries the `context` numbers.
FRAME_BYTES_MAX = 4 * 1024 * 1024


class Frame(NamedTuple):
    """One frame: its exact bytes, terminator included, and its payload, empty for a comment or a blank line."""

    raw: bytes
    data: bytes


class FrameTooLong(Exception):
    """A frame is longer than the splitter may hold. The splitter is empty afterwards.

    `frames` are the complete frames before it in the same chunk, `held` are the bytes of the long one so far.
    """

    def __init__(self, limit_bytes: int, frames: list[Frame], held: bytes) -> None:
        super().__init__(f"a frame is longer than {limit_bytes} bytes")
        self.frames = frames
        self.held = held


class Splitter(Protocol):
    """The interface of the splitters: `feed` chunks as they come, then `flush` once."""

    held: bytearray
    """The bytes of a frame that is not complete. Without any, the next chunk begins a frame."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Returns the frames that `chunk` completes. Raises FrameTooLong."""
        ...

    def flush(self) -> list[Frame]:
        """Returns the rest, which has no terminator: one frame, or none."""
        ...


class _LineSplitter:
    """Splits after each line that ends a frame. Lines end with LF or CRLF."""

    def __init__(self, limit_bytes: int = FRAME_BYTES_MAX) -> None:
        self._limit_bytes = limit_bytes
        self.held = bytearray()
        self._line_start = 0
        self._searched_to = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        held = self.held
        held += chunk
        frames: list[Frame] = []
        frame_start = 0
        while (newline := held.find(b"\n", self._searched_to)) >= 0:
            line = held[self._line_start : newline]
            self._line_start = self._searched_to = newline + 1
            if self._ends_frame(line):
                self._check_length(frames, frame_start, newline + 1)
                raw = bytes(held[frame_start : newline + 1])
                frames.append(Frame(raw, self._payload(raw)))
                frame_start = newline + 1
        self._check_length(frames, frame_start, len(held))
        del held[:frame_start]
        self._line_start -= frame_start
        self._searched_to = len(held)
        return frames

    def flush(self) -> list[Frame]:
        raw = self._empty()
        return [Frame(raw, self._payload(raw))] if raw else []

    def _check_length(self, frames: list[Frame], start: int, end: int) -> None:
        if end - start > self._limit_bytes:
            raise FrameTooLong(self._limit_bytes, frames, self._empty()[start:])

    def _empty(self) -> bytes:
        held = bytes(self.held)
        self.held.clear()
        self._line_start = self._searched_to = 0
        return held

    def _ends_frame(self, line: bytearray) -> bool:
        raise NotImplementedError

    def _payload(self, raw: bytes) -> bytes:
        raise NotImplementedError


class NdjsonSplitter(_LineSplitter):
    """One JSON value per line."""

    def feed(self, chunk: bytes) -> list[Frame]:
        # Ollama writes each line at once, so a chunk is almost always one line.
        if not self.held and 0 < len(chunk) <= self._limit_bytes and chunk.find(b"\n") == len(chunk) - 1:
            return [Frame(chunk, chunk.strip())]
        return super().feed(chunk)

    def _ends_frame(self, line: bytearray) -> bool:  # noqa: ARG002 (every line is a frame)
        return True

    def _payload(self, raw: bytes) -> bytes:
        return raw.strip()


class SseSplitter(_LineSplitter):
    """Server-sent events: fields until a blank line. Comments, `event:` and `id:` are in `raw` only.

    https://html.spec.whatwg.org/multipage/server-sent-events.html, without the lone CR, which no backend sends.
    """

    def _ends_frame(self, line: bytearray) -> bool:
        return not line or line == b"\r"

    def _payload(self, raw: bytes) -> bytes:
        lines = (line.removesuffix(b"\r") for line in raw.split(b"\n") if line.startswith(b"data:"))
        return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def with_payload(event: bytes, data: bytes) -> bytes:
    """The raw server-sent event `event` with its payload replaced by the one line `data`. Other lines stay."""
    lines = event.split(b"\n")
    place = next(index for index, line in enumerate(lines) if line.startswith(b"data:"))
    ending = b"\r" if lines[place].endswith(b"\r") else b""
    rest = (line for line in lines[place + 1 :] if not line.startswith(b"data:"))
    return b"\n".join([*lines[:place], b"data: " + data + ending, *rest])
