"""One admitted request in the meter: from its grant over the backend's answer to its ledger entry. Pure.

`Exchange` takes what Envoy reports as plain values and returns what Envoy is to do. Its phase changes only by the table
`TRANSITIONS`; an event that the table does not allow raises, and Envoy then answers with an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from gateway.errors import Code, upstream_code
from gateway.quota.port import Hold, Progress
from gateway.record.entry import Ending, Entry, settled_entry
from gateway.record.grant import Grant
from gateway.values import NO_USAGE, Outcome
from gateway.wire.names import BACKEND_HEADER, DROPPED_OPTIONS_HEADER, ERROR_HEADER
from meter.answer.answer import Answer
from meter.prompt_log.writer import Transcript
from meter.rewrite import rewrite


class Phase(Enum):
    """How far a request has come. CUT and ENDED have their ending; CLOSED is final."""

    OPEN = auto()
    FORWARDED = auto()
    ANSWERING = auto()
    LOCAL_REPLY = auto()
    CUT = auto()
    ENDED = auto()
    CLOSED = auto()


class Trigger(Enum):
    """What moves a request on.

    FORWARD: its body goes to a backend. ANSWER: a backend's response headers arrive. LOCAL_REPLY: Envoy answers by
    itself. END: the backend's answer is complete. CUT: the meter ends the answer. LEASE_LOST: the hold was settled or
    released elsewhere, so nothing that follows would be accounted. CLOSE: Envoy has closed its stream to the meter.
    """

    FORWARD = auto()
    ANSWER = auto()
    LOCAL_REPLY = auto()
    END = auto()
    CUT = auto()
    LEASE_LOST = auto()
    CLOSE = auto()


TRANSITIONS: dict[tuple[Phase, Trigger], Phase] = {
    (Phase.OPEN, Trigger.FORWARD): Phase.FORWARDED,
    (Phase.OPEN, Trigger.LOCAL_REPLY): Phase.LOCAL_REPLY,
    (Phase.OPEN, Trigger.LEASE_LOST): Phase.CUT,
    (Phase.OPEN, Trigger.CLOSE): Phase.CLOSED,
    (Phase.FORWARDED, Trigger.ANSWER): Phase.ANSWERING,
    (Phase.FORWARDED, Trigger.LOCAL_REPLY): Phase.LOCAL_REPLY,
    (Phase.FORWARDED, Trigger.LEASE_LOST): Phase.CUT,
    (Phase.FORWARDED, Trigger.CLOSE): Phase.CLOSED,
    (Phase.ANSWERING, Trigger.LOCAL_REPLY): Phase.LOCAL_REPLY,
    (Phase.ANSWERING, Trigger.END): Phase.ENDED,
    (Phase.ANSWERING, Trigger.CUT): Phase.CUT,
    (Phase.ANSWERING, Trigger.LEASE_LOST): Phase.CUT,
    (Phase.ANSWERING, Trigger.CLOSE): Phase.CLOSED,
    (Phase.LOCAL_REPLY, Trigger.LEASE_LOST): Phase.LOCAL_REPLY,
    (Phase.LOCAL_REPLY, Trigger.CLOSE): Phase.CLOSED,
    # Envoy may report more of an answer, its own reply included, until it has closed both sides.
    (Phase.CUT, Trigger.ANSWER): Phase.CUT,
    (Phase.CUT, Trigger.LOCAL_REPLY): Phase.CUT,
    (Phase.CUT, Trigger.LEASE_LOST): Phase.CUT,
    (Phase.CUT, Trigger.CLOSE): Phase.CLOSED,
    (Phase.ENDED, Trigger.LEASE_LOST): Phase.ENDED,
    (Phase.ENDED, Trigger.CLOSE): Phase.CLOSED,
}


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Response headers for the caller: the status, and what to set besides. `denied` replaces the whole answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    denied: Code | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The entry of a request that is over. `cause_unknown`: an answer broke off, and only Envoy's access log records
    whether the backend or the caller ended it; the entry assumes the caller."""

    entry: Entry
    cause_unknown: bool


class Exchange:
    """Call one method for each of Envoy's messages, then `close` once. `monotonic` gives seconds.

    `grant_json` is the text that `grant` was read from; the hold retains it.
    """

    def __init__(self, grant: Grant, grant_json: str, monotonic: Callable[[], float]) -> None:
        self.grant = grant
        self.hold = Hold.of(grant, grant_json)
        self.phase = Phase.OPEN
        self.transcript = Transcript(grant) if grant.log_prompts else None
        self._monotonic = monotonic
        self._opened_s = monotonic()
        self._first_byte_s: float | None = None
        self._answer = Answer(grant)
        self._ending: Ending | None = None
        self._status = 499
        self._code: Code | str | None = None
        self._backend: str | None = None
        self._response_bytes = 0
        self._dropped_options: tuple[str, ...] = ()

    @property
    def progress(self) -> Progress:
        """What the hold records in case this process dies now."""
        if self.phase in _HAS_ANSWER:
            usage = self._answer.delivered
            return Progress(usage.input_tokens, usage.output_tokens, self._response_bytes)
        return Progress(response_bytes=self._response_bytes)

    def request_body(self, body: bytes) -> bytes | Code:
        """The body for the backend, or the code of the error with which Envoy answers when the lease is lost.

        Raises ValueError when `body` is not the one that authz has read.
        """
        if self.phase is Phase.CUT:
            return Code.UNAVAILABLE
        if self.transcript:
            self.transcript.set_request(body)
        rewritten = rewrite(body, self.grant)
        self._dropped_options = rewritten.dropped_options
        self._advance(Trigger.FORWARD)
        return rewritten.body

    def local_reply(self, status: int, code: str, body_bytes: int = 0) -> None:
        """Envoy answers by itself with `status` and the gateway's `code`; no backend does."""
        self._advance(Trigger.LOCAL_REPLY)
        if self.phase is Phase.LOCAL_REPLY:
            self._status, self._code = status, code
            self._response_bytes += body_bytes

    def response_headers(
        self, status: int, content_type: str, backend: str | None, *, end_of_stream: bool
    ) -> ResponseHead:
        """A backend's response headers: what the caller sees of them."""
        self._advance(Trigger.ANSWER)
        if self.phase is Phase.CUT:
            return ResponseHead(status, denied=Code.BACKEND_ERROR)
        self._backend = backend
        self._status = self._answer.headers(status, content_type)
        headers: dict[str, str] = {}
        if self.grant.show_backend and backend:
            headers[BACKEND_HEADER] = backend
        if self._dropped_options:
            headers[DROPPED_OPTIONS_HEADER] = ", ".join(self._dropped_options)
        if self._status >= 400:
            self._code = code = upstream_code(self._status)
            headers |= {ERROR_HEADER: code, "content-type": "application/json"}
        if not end_of_stream:
            return ResponseHead(self._status, headers)
        self._end(Trigger.END)
        # An error without a body would leave the caller's client without a message.
        return ResponseHead(self._status, headers, denied=code if self._status >= 400 else None)

    def response_body(self, data: bytes, end_of_stream: bool) -> bytes | Code | None:
        """The next bytes of the answer: what takes their place, None when they pass unchanged, or the code of the error
        with which Envoy cuts both sides."""
        if self.phase is Phase.LOCAL_REPLY:
            self._response_bytes += len(data)
            return None
        if self.phase is not Phase.ANSWERING:
            # The error frame went out with the previous chunk, or the lease is lost.
            return Code.BACKEND_ERROR
        if data and self._first_byte_s is None:
            self._first_byte_s = self._monotonic()
        decision = self._answer.chunk(data, end_of_stream)
        delivered = data if decision.body is None else decision.body
        self._response_bytes += len(delivered)
        if self.transcript:
            self.transcript.add_response(delivered)
        if end_of_stream:
            self._end(Trigger.END)
        elif decision.cut:
            self._end(Trigger.CUT)
        return decision.body

    def lose_lease(self) -> None:
        """The hold is no longer this request's; what follows of the answer is cut."""
        self._end(Trigger.LEASE_LOST)

    def close(self) -> Closed:
        """Envoy has closed the stream: the entry of this request. A stream that ends early was ended by a peer."""
        phase = self.phase
        self._end(Trigger.CLOSE)
        assert self._ending is not None  # noqa: S101 (every transition to CLOSED makes an ending)
        cause_unknown = phase is Phase.ANSWERING and self._ending.outcome is Outcome.CLIENT_GONE
        return Closed(settled_entry(self.grant, self._ending), cause_unknown)

    def _advance(self, event: Trigger) -> None:
        try:
            self.phase = TRANSITIONS[self.phase, event]
        except KeyError:
            raise RuntimeError(f"{event.name} is impossible in phase {self.phase.name}") from None

    def _end(self, event: Trigger) -> None:
        """Advances, and makes the ending when the phase that is left is the last one that could."""
        left = self.phase
        self._advance(event)
        if self._ending is None and self.phase in _HAS_ENDING:
            self._ending = self._ending_of(left, aborted=event is not Trigger.END)

    def _ending_of(self, phase: Phase, *, aborted: bool) -> Ending:
        usage, outcome, code = NO_USAGE, Outcome.CLIENT_GONE, None
        if phase is Phase.LOCAL_REPLY:
            outcome, code = Outcome.UPSTREAM_ERROR, self._code
        elif phase is not Phase.OPEN:
            result = self._answer.end(aborted=aborted)
            usage, outcome, code = result.usage, result.outcome, self._code or result.code
        return Ending(
            outcome,
            self._status,
            code,
            self._backend,
            usage,
            ttft_ms=None if self._first_byte_s is None else round((self._first_byte_s - self._opened_s) * 1000),
            duration_ms=round((self._monotonic() - self._opened_s) * 1000),
            response_bytes=self._response_bytes,
        )


_HAS_ANSWER = frozenset({Phase.ANSWERING, Phase.CUT, Phase.ENDED})
_HAS_ENDING = frozenset({Phase.CUT, Phase.ENDED, Phase.CLOSED})
