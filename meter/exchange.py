"""One admitted request in the meter, from its grant to its ledger entry, as an explicit state machine. Pure.

`Exchange` takes plain values from Envoy and returns plain values to it; `meter.phases` has the table of transitions.
The ending is made once, by the transition after which nothing more reaches the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.errors import STATUS, Code, Denied
from gateway.queue.port import UNKNOWN, Timing
from gateway.quota.port import Hold, Progress
from gateway.record.entry import Ending, Entry, settled_entry
from gateway.record.grant import Grant
from gateway.values import NO_USAGE, Outcome, Usage
from gateway.wire.names import BACKEND_HEADER, DROPPED_OPTIONS_HEADER, ERROR_HEADER, NOT_AN_ANSWER
from meter.answer.answer import Answer
from meter.answer.result import AnswerResult
from meter.answer.token_size import TokenSizes
from meter.generation_rates import GenerationRates
from meter.phases import Phase, Trigger, following
from meter.prompt_log.writer import Transcript
from meter.rewrite import rewrite


@dataclass(frozen=True, slots=True)
class Closed:
    """The entry of a request that is over.

    `cause_unknown` means that the answer broke off, and only Envoy's access log records whether the backend or the
    caller ended it. The entry presumes the caller and is not final.
    """

    entry: Entry
    cause_unknown: bool


class Exchange:
    """Call one method for each of Envoy's messages, then `close` once. `monotonic` returns seconds.

    A method that returns a Code or a Denied denies the message: the caller gets that error in place of the backend's
    answer, or a closed connection when part of the answer is already out. Each method raises OutOfOrder in a phase in
    which its message cannot come. `grant_json` is the text that `grant` was read from; the hold retains it. All
    exchanges of a meter share `rates`, which estimates a whole answer that its caller abandons, and `token_sizes`,
    which counts the answers of silent backends. Both learn from complete answers.
    """

    def __init__(
        self,
        grant: Grant,
        grant_json: str,
        monotonic: Callable[[], float],
        rates: GenerationRates | None = None,
        token_sizes: TokenSizes | None = None,
    ) -> None:
        self.grant = grant
        self._grant_json = grant_json
        self.phase = Phase.OPEN
        self.ending: Ending | None = None
        self._entry: Entry | None = None
        # Whether Envoy holds the head of the answer until the meter has read the whole body.
        self.holds_answer = False
        self.transcript = Transcript(grant) if grant.log_prompts else None
        self._monotonic = monotonic
        self._rates = rates or GenerationRates()
        self._opened_s = monotonic()
        self._first_byte_s: float | None = None
        self._latest_byte_s: float | None = None
        self._answer = Answer(grant, token_sizes)
        self._status = 499
        self._local_code: str | None = None
        self._backend: str | None = None
        self._replica: str | None = None
        self._response_bytes = 0
        self._dropped_options: tuple[str, ...] = ()

    @property
    def final_entry(self) -> Entry | None:
        """The entry of an exchange whose ending is known, None before."""
        if self._entry is None and self.ending is not None:
            self._entry = settled_entry(self.grant, self.ending)
        return self._entry

    @property
    def hold(self) -> Hold:
        """The hold of the request, for its renewal. Most requests end before their first one."""
        return Hold.of(self.grant, self._grant_json)

    @property
    def output_tokens(self) -> int:
        """The output tokens that the caller has received so far."""
        return self._usage.output_tokens

    @property
    def progress(self) -> Progress:
        """What the hold retains in case this process dies now."""
        usage = self._usage
        replica = self._replica or self.grant.replica
        return Progress(
            usage.input_tokens,
            usage.output_tokens,
            self._response_bytes,
            replica,
            self._timing(usage),
            answers=self._replica is not None or not self.grant.replica,
        )

    def _timing(self, usage: Usage) -> Timing:
        if not self.grant.replica:
            return UNKNOWN
        first_ms = self._ms_since_opened(self._first_byte_s) if usage.output_tokens else None
        last_ms = self._ms_since_opened(self._latest_byte_s) or 0
        return Timing(first_ms, last_ms, self._ms_since_opened(self._monotonic()) or 0)

    def _ms_since_opened(self, at_s: float | None) -> int | None:
        return None if at_s is None else round((at_s - self._opened_s) * 1000)

    def request_body(self, body: bytes) -> bytes | Code:
        """Takes the caller's body, returns the one for the backend.

        Raises ValueError when `body` is not the one that authz has read.
        """
        if self.transcript:
            self.transcript.set_request(body)
        rewritten = rewrite(body, self.grant)
        if self._advance(Trigger.FORWARD) is Phase.CUT:
            return Code.UNAVAILABLE
        self._dropped_options = rewritten.dropped_options
        return rewritten.body

    def local_reply(self, status: int, code: str) -> None:
        """Takes the head of Envoy's own reply, with the gateway's error code; no backend answers."""
        self._advance(Trigger.LOCAL_REPLY)
        self._status, self._local_code = status, code

    def response_headers(
        self,
        status: int,
        content_type: str,
        backend: str | None,
        *,
        end_of_stream: bool,
        comes_whole: bool = False,
        body_bytes: int = 0,
        replica: str | None = None,
    ) -> dict[str, str] | Code:
        """Takes the head of a backend's answer, returns the headers to set, `:status` included.

        `comes_whole` means that the body comes in one piece, `body_bytes` is its
        announced size, 0 for none. `replica` is the cluster that answers. `holds_answer` is set afterwards.
        """
        if self._advance(Trigger.ANSWER) is Phase.CUT:
            return Code.BACKEND_ERROR
        self._backend = backend
        # Envoy retries a request at another replica without a slot there; its slot follows it.
        self._replica = replica if self.grant.replica else None
        self._status = self._answer.headers(NOT_AN_ANSWER if end_of_stream and status < 300 else status, content_type)
        self.holds_answer = (comes_whole and self._answer.is_whole) or self._answer.hold_error(body_bytes)
        if self._answer.error_code is not None and end_of_stream:
            # An error without a body would leave the caller's client without a message.
            code = self._answer.error_code
            self._status = STATUS[code]
            self._answer.chunk(b"", end_of_stream=True)
            self._finish(Trigger.END)
            return code
        headers = {":status": str(self._status)}
        if self.grant.show_backend and backend:
            headers[BACKEND_HEADER] = backend
        if self._dropped_options:
            headers[DROPPED_OPTIONS_HEADER] = ", ".join(self._dropped_options)
        if self._answer.error_code is not None:
            headers |= {ERROR_HEADER: self._answer.error_code, "content-type": "application/json"}
        return headers

    def response_body(self, data: bytes, end_of_stream: bool) -> bytes | Code | Denied | None:
        """Takes the next bytes of the answer, returns their replacement, or None when they pass unchanged."""
        if self.phase is not Phase.ANSWERING:
            return self._response_body_out_of_answer(data, end_of_stream)
        if data:
            self._latest_byte_s = self._monotonic()
            if self._first_byte_s is None:
                self._first_byte_s = self._latest_byte_s
        body = self._answer.chunk(data, end_of_stream)
        if isinstance(body, Denied):
            if self.holds_answer:
                self._status = body.status
            self._finish(Trigger.END)
            return body
        delivered = data if body is None else body
        self._response_bytes += len(delivered)
        if self.transcript:
            self.transcript.add_response(delivered)
        if self._answer.result is not None:
            is_cut = self._answer.result.outcome is Outcome.CUT and not end_of_stream
            self._finish(Trigger.CUT if is_cut else Trigger.END)
        return body

    def _response_body_out_of_answer(self, data: bytes, end_of_stream: bool) -> bytes | Code | None:
        phase = following(self.phase, Trigger.END if end_of_stream else Trigger.CHUNK)
        if phase is Phase.CUT:
            # The error frame went out with the previous chunk, or the lease is lost.
            return Code.BACKEND_ERROR
        if phase is Phase.LOCAL_REPLY:
            self._response_bytes += len(data)
            return None
        # The entry is final, so bytes that follow the end of the answer do not pass.
        return b"" if data else None

    def lose_lease(self) -> None:
        """Another process settled the hold: an exchange that still runs is cut at its next message."""
        usage = self._usage
        if self._advance(Trigger.LEASE_LOST) is Phase.CUT and self.ending is None:
            self.ending = self._ending(AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, usage))

    def close(self) -> Closed:
        """Envoy has closed its stream. A request without an ending was ended by Envoy, the caller or the backend."""
        left = self.phase
        self._advance(Trigger.CLOSE)
        entry = self.final_entry
        if entry is not None:
            return Closed(entry, cause_unknown=False)
        result = self._result_at_close(left)
        self.ending = self._ending(result)
        return Closed(settled_entry(self.grant, self.ending), result.is_presumed)

    def _advance(self, trigger: Trigger) -> Phase:
        self.phase = following(self.phase, trigger)
        return self.phase

    def _finish(self, trigger: Trigger) -> None:
        self._advance(trigger)
        if self._answer.result is not None:
            self.ending = self._ending(self._answer.result)

    def _result_at_close(self, left: Phase) -> AnswerResult:
        match left:
            case Phase.OPEN:
                return AnswerResult(Outcome.CLIENT_GONE, None, NO_USAGE)
            case Phase.LOCAL_REPLY:
                return AnswerResult(Outcome.UPSTREAM_ERROR, self._local_code, NO_USAGE)
            case Phase.FORWARDED if not self.grant.stream:
                return self._abandoned(self._answer.abort())
            case _:
                return self._answer.abort()

    def _abandoned(self, result: AnswerResult) -> AnswerResult:
        """A whole answer was being generated. Its output is estimated from the time, so that it is not free."""
        generated = self._rates.tokens_in(self.grant.model, self._monotonic() - self._opened_s)
        usage = replace(result.usage, output_tokens=min(generated, self.grant.output_cap))
        return replace(result, usage=usage)

    def _ending(self, result: AnswerResult) -> Ending:
        duration_s = self._monotonic() - self._opened_s
        if result.outcome is Outcome.COMPLETE:
            self._rates.learn(self.grant.model, result.usage.output_tokens, duration_s)
        return Ending(
            result.outcome,
            self._status,
            result.code,
            self._backend,
            result.usage,
            ttft_ms=self._ms_since_opened(self._first_byte_s),
            duration_ms=round(duration_s * 1000),
            response_bytes=self._response_bytes,
        )

    @property
    def _usage(self) -> Usage:
        if self.ending is not None:
            return self.ending.usage
        return self._answer.delivered if self.phase is Phase.ANSWERING else NO_USAGE
