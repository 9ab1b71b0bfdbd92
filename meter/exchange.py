"""One admitted request on its way: from the grant over the backend's answer to the ledger entry.

It turns each message of Envoy into the reply to it, and knows at any moment what the entry would say. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gateway.errors import Code
from gateway.quota.port import Hold, Progress
from gateway.record.entry import Entry, settled_entry
from gateway.record.grant import Grant
from gateway.values import Outcome, Usage
from gateway.wire.names import BACKEND_HEADER, DROPPED_OPTIONS_HEADER, ERROR_HEADER, backend_of
from meter import envoy_api
from meter.answer.answer import Answer
from meter.prompt_log.writer import Transcript
from meter.rewrite import rewrite

# What a backend's own refusal is called; any other is a backend_error.
_ERROR_CODES = {
    400: Code.INVALID_REQUEST,
    404: Code.NOT_FOUND,
    413: Code.REQUEST_TOO_LARGE,
    503: Code.BACKEND_UNAVAILABLE,
    504: Code.BACKEND_TIMEOUT,
}


class Exchange:
    """`monotonic` gives seconds. Call `reply` for each message, and `entry` once, after the last."""

    def __init__(self, grant: Grant, monotonic: Callable[[], float]) -> None:
        self.grant = grant
        self.hold = Hold(
            request_id=grant.request_id,
            tenant_id=grant.tenant_id,
            key_id=grant.key_id,
            admitted_at_ms=grant.admitted_at_ms,
            input_tokens=grant.input_estimate,
            output_cap=grant.output_cap,
            record=grant.to_json(),
        )
        self.lease_lost = False
        self.transcript = Transcript(grant) if grant.log_prompts else None
        self._monotonic = monotonic
        self._opened = monotonic()
        self._first_byte: float | None = None
        self._answer = Answer(grant)
        self._answered = False
        self._forwarded = False
        self._local_code: str | None = None
        self._error_code: Code | None = None
        self._ended = False
        self._cut = False
        self._status = 0
        self._backend: str | None = None
        self._response_bytes = 0
        self._dropped_options: tuple[str, ...] = ()

    def reply(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        """What Envoy is to do with this message."""
        kind = message.WhichOneof("request") or ""
        match kind:
            case "request_headers":
                return envoy_api.request_headers(envoy_api.read_headers(message.request_headers))
            case "request_body":
                if self.transcript:
                    self.transcript.asked(message.request_body.body)
                rewritten = rewrite(message.request_body.body, self.grant)
                self._dropped_options = rewritten.dropped_options
                self._forwarded = True
                return envoy_api.request_body(rewritten.body)
            case "response_headers":
                return self._response_headers(message)
            case "response_body":
                return self._response_body(message.response_body.body, message.response_body.end_of_stream)
            case _:
                return envoy_api.untouched(kind)

    @property
    def aborted(self) -> bool:
        """Whether an answer had begun and did not come to its end, on whichever side that was."""
        return self._answered and not self._ended and not self._cut

    @property
    def progress(self) -> Progress:
        """What the hold should remember in case this process dies now."""
        usage = self._answer.delivered if self._answered else Usage()
        return Progress(usage.input_tokens, usage.output_tokens, self._response_bytes)

    def entry(self) -> Entry:
        """The ledger entry. A stream that went away without its end was cut by whoever was at the other end of it."""
        now = self._monotonic()
        ending = self._answer.end(aborted=not self._ended)
        usage, outcome, code = ending.usage, ending.outcome, str(ending.code) if ending.code else None
        if self._local_code:
            # Envoy answered itself: no backend did.
            usage, outcome, code = Usage(), Outcome.UPSTREAM_ERROR, self._local_code
        elif not self._forwarded:
            usage, outcome, code = Usage(), Outcome.CLIENT_GONE, None
        elif self._error_code:
            code = str(self._error_code)
        return settled_entry(
            self.grant,
            backend=self._backend,
            status=self._status or 499,
            code=code,
            outcome=outcome,
            usage=usage,
            ttft_ms=None if self._first_byte is None else round((self._first_byte - self._opened) * 1000),
            duration_ms=round((now - self._opened) * 1000),
            response_bytes=self._response_bytes,
        )

    def _response_headers(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        headers = envoy_api.read_headers(message.response_headers)
        status = int(headers.get(":status", "0"))
        self._ended = message.response_headers.end_of_stream
        if envoy_api.read_attribute(message, "response.code_details") != "via_upstream":
            self._status, self._local_code = status, headers.get(ERROR_HEADER, str(Code.UNAVAILABLE))
            return envoy_api.untouched("response_headers")
        self._answered = True
        self._backend = backend_of(envoy_api.read_attribute(message, "xds.cluster_name"))
        self._status = self._answer.headers(status, headers.get("content-type", ""))
        extra = {":status": str(self._status)}
        if self.grant.show_backend and self._backend:
            extra[BACKEND_HEADER] = self._backend
        if self._dropped_options:
            extra[DROPPED_OPTIONS_HEADER] = ", ".join(self._dropped_options)
        if self._status >= 400:
            self._error_code = _ERROR_CODES.get(self._status, Code.BACKEND_ERROR)
            if self._ended:
                # An error without a body would leave the caller's client without words.
                return envoy_api.refusal(self._error_code, self.grant.path, self.grant.request_id)
            extra |= {ERROR_HEADER: str(self._error_code), "content-type": "application/json"}
        return envoy_api.response_headers(headers, extra)

    def _response_body(self, data: bytes, end_of_stream: bool) -> ext_proc.ProcessingResponse:
        self._ended = self._ended or end_of_stream
        if not self._answered:
            self._response_bytes += len(data)
            return envoy_api.untouched("response_body")
        if self._cut or self.lease_lost:
            # The error frame went out with the chunk before; now both sides are closed.
            return envoy_api.refusal(Code.BACKEND_ERROR, self.grant.path, self.grant.request_id)
        if data and self._first_byte is None:
            self._first_byte = self._monotonic()
        decision = self._answer.chunk(data, end_of_stream)
        self._cut = decision.cut and not end_of_stream
        delivered = data if decision.body is None else decision.body
        self._response_bytes += len(delivered)
        if self.transcript:
            self.transcript.answered(delivered)
        return envoy_api.response_chunk(decision.body)
