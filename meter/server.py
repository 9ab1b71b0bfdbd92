"""The gRPC edge of the meter: one bidirectional stream per proxied request. It decides nothing about the answer.

A call that ended early would let the rest of the answer pass unmetered. So a session ends only after Envoy has closed
its side, and otherwise fails, which makes Envoy cut both sides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial

import structlog
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gateway.errors import Code
from gateway.ledger.outbox import Outbox
from gateway.record.entry import Entry
from gateway.record.grant import ATTEMPT_HEADER, GRANT_HEADER, Grant
from gateway.rpc.methods import (
    Message,
    Metadata,
    Method,
    RpcError,
    Session,
    Status,
    Streaming,
    traceparent_of,
)
from meter import envoy_api
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.answer.token_size import TokenSizes
from meter.attempts import AttemptCall, Attempts
from meter.exchange import Exchange
from meter.generation_rates import GenerationRates
from meter.metrics import MESSAGE_SECONDS
from meter.prompt_log.writer import PromptWriter
from meter.renewal import Renewal
from meter.tracer import StreamTracer

log = structlog.get_logger()

# How long the last message of an answer waits for its settlement. Envoy's `message_timeout` for each message is 2 s.
SETTLE_WAIT_S = 0.25


class ExternalProcessor:
    """envoy.service.ext_proc.v3.ExternalProcessor.

    The message that ends an answer is released only when its settlement is stored, so that a meter that is killed
    afterwards does not lose it. `settle_wait_s` bounds that wait. Without a reply of the store in that time, the
    message goes out and the outbox settles the request as soon as it can. The entry is final before the wait: a caller
    that leaves during it has the outcome of the answer, because the backend has done all its work.

    With a queue, `attempts` decides on calls about further attempts.
    """

    def __init__(
        self,
        outbox: Outbox,
        renewal: Renewal,
        disconnect_causes: DisconnectCauses,
        prompts: PromptWriter,
        *,
        attempts: Attempts | None = None,
        settle_wait_s: float = SETTLE_WAIT_S,
        tracer: StreamTracer | None = None,
    ) -> None:
        self._outbox = outbox
        self._renewal = renewal
        self._disconnect_causes = disconnect_causes
        self._prompts = prompts
        self._settle_wait_s = settle_wait_s
        self._attempts = attempts
        self._rates = GenerationRates()
        self._token_sizes = TokenSizes()
        self._tracer = tracer

    def methods(self) -> tuple[Method, ...]:
        """The methods of the service."""
        path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
        return (Streaming(path, ext_proc.ProcessingRequest, self._session),)

    def _session(self, metadata: Metadata) -> Session:
        if self._attempts is not None and ATTEMPT_HEADER in metadata:
            return AttemptCall(self._attempts, metadata)
        return _Process(self, metadata)

    def release(
        self, reply: ext_proc.ProcessingResponse, entry: Entry, stored: asyncio.Future[None]
    ) -> asyncio.Future[Message]:
        """The reply that ends an answer, when its settlement is stored or after `settle_wait_s`."""
        loop = asyncio.get_running_loop()
        released: asyncio.Future[Message] = loop.create_future()

        def on_timeout() -> None:
            if not released.done():
                log.warning("released_before_settled", request_id=entry.request_id)
                released.set_result(reply)

        def on_stored(_: asyncio.Future[None]) -> None:
            timer.cancel()
            if not released.done():
                released.set_result(reply)

        timer = loop.call_later(self._settle_wait_s, on_timeout)
        stored.add_done_callback(on_stored)
        return released

    def settle(self, exchange: Exchange, entry: Entry) -> asyncio.Future[None]:
        """Submits the entry of an answer that has ended. The future is done when the entry is stored."""
        self._renewal.discard(exchange)
        stored = self._outbox.settle(entry)
        if self._tracer is not None:
            self._tracer.finish(entry)
        return stored

    def close(self, exchange: Exchange, *, settled: bool) -> None:
        """Ends a request whose stream is over, and settles it unless that is done."""
        self._renewal.discard(exchange)
        try:
            self._close(exchange, settled=settled)
        finally:
            self._disconnect_causes.discard(exchange.grant.request_id)

    def _close(self, exchange: Exchange, *, settled: bool) -> None:
        closed = exchange.close()
        if exchange.transcript:
            self._prompts.submit(exchange.transcript, closed.entry.request_id)
        if settled:
            return
        if closed.cause_unknown:
            # Its hold must not expire before the cause is known.
            self._renewal.add(exchange)
            self._disconnect_causes.settle(closed.entry, partial(self._renewal.discard, exchange))
        else:
            self._outbox.submit(closed.entry)
            if self._tracer is not None:
                self._tracer.finish(closed.entry)

    def traceparent(self, metadata: Metadata) -> str:
        """The `traceparent` header of a call, empty when requests are not traced."""
        return "" if self._tracer is None else traceparent_of(metadata)

    def open(self, grant: Grant, grant_json: str, traceparent: str) -> Exchange | Code:
        """Opens the record of a request before any backend receives it, or returns why it must not go on.

        `grant_json` is the text of the grant that authz returned.
        """
        if self._outbox.full:
            log.error("outbox_full", request_id=grant.request_id)
            return Code.AUDIT_BACKLOG
        exchange = Exchange(grant, grant_json, time.monotonic, self._rates, self._token_sizes)
        if self._tracer is not None:
            self._tracer.begin(grant, traceparent)
        self._renewal.add(exchange)
        self._disconnect_causes.register(grant.request_id)
        return exchange


class _Process:
    """One request, from its headers to the end of its answer, whichever side ends it."""

    def __init__(self, service: ExternalProcessor, metadata: Metadata) -> None:
        grant = metadata.get(GRANT_HEADER)
        self._service = service
        self._grant_json = None if grant is None else grant.decode("ascii", "replace")
        self._traceparent = service.traceparent(metadata)
        self._exchange: Exchange | None = None
        self._settled = False

    def receive(self, message: ext_proc.ProcessingRequest) -> Message | Awaitable[Message]:
        started_s = time.perf_counter()
        reply = self._reply(message)
        MESSAGE_SECONDS.observe(time.perf_counter() - started_s)
        return reply

    def _reply(self, message: ext_proc.ProcessingRequest) -> Message | Awaitable[Message]:
        if self._exchange is None:
            kind = message.WhichOneof("request")
            if kind != "request_body":
                # The answer to a request that authz denied passes here too, without a grant.
                if envoy_api.is_of_a_backend(message):
                    log.error("answer_without_request")
                    raise RpcError(Status.INTERNAL, "an answer without a request")
                return envoy_api.untouched(kind)
            grant_json, grant = self._grant()
            opened = self._service.open(grant, grant_json, self._traceparent)
            if isinstance(opened, Code):
                return envoy_api.deny_unopened(opened, grant)
            self._exchange = opened
        reply = envoy_api.respond(self._exchange, message)
        if self._exchange.ending is None or self._settled or (entry := self._exchange.final_entry) is None:
            return reply
        # A caller that leaves cancels the awaitable, perhaps before its first step, so the entry is submitted here.
        self._settled = True
        stored = self._service.settle(self._exchange, entry)
        return self._service.release(reply, entry, stored)

    def _grant(self) -> tuple[str, Grant]:
        """The grant of authz and its text. Without one the call fails, and Envoy answers with 503."""
        if self._grant_json is None:
            log.error("request_without_grant")
            raise RpcError(Status.UNAVAILABLE, "a request without a grant")
        try:
            return self._grant_json, Grant.from_json(self._grant_json)
        except ValueError as error:
            log.error("grant_unreadable", reason=str(error))
            raise RpcError(Status.UNAVAILABLE, "an unreadable grant") from None

    def finish(self) -> None:
        """The last message of Envoy needs no reply."""

    def close(self, cause: Exception | None) -> None:
        if cause is not None:
            log.error("process_failed", request_id=self._exchange.grant.request_id if self._exchange else None)
        if self._exchange is not None:
            self._service.close(self._exchange, settled=self._settled)
