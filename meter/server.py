"""The gRPC edge of the meter: one bidirectional stream per proxied request. It decides nothing about the answer.

A call that ended early would let the rest of the answer pass unmetered. So a session ends only after Envoy has closed
its side, and otherwise fails, which makes Envoy cut both sides.
"""

from __future__ import annotations

import time

import structlog
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gateway.errors import Code
from gateway.ledger.outbox import Outbox
from gateway.record.grant import Grant
from gateway.rpc.methods import Method, Streaming
from meter import envoy_api
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.exchange import Exchange
from meter.prompt_log.writer import PromptWriter
from meter.renewal import Renewal

log = structlog.get_logger()


class ExternalProcessor:
    """envoy.service.ext_proc.v3.ExternalProcessor."""

    def __init__(
        self, outbox: Outbox, renewal: Renewal, disconnect_causes: DisconnectCauses, prompts: PromptWriter
    ) -> None:
        self._outbox = outbox
        self._renewal = renewal
        self._disconnect_causes = disconnect_causes
        self._prompts = prompts

    def methods(self) -> tuple[Method, ...]:
        """The methods of the service."""
        path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
        return (Streaming(path, ext_proc.ProcessingRequest, lambda: _Process(self)),)

    def close(self, exchange: Exchange) -> None:
        """Settles a request whose stream is over."""
        self._renewal.discard(exchange)
        closed = exchange.close()
        if exchange.transcript:
            self._prompts.submit(exchange.transcript, closed.entry.request_id)
        if closed.cause_unknown:
            self._disconnect_causes.settle(closed.entry)
        else:
            self._outbox.submit(closed.entry)

    def open(self, message: ext_proc.ProcessingRequest) -> Exchange | Code:
        """Opens the record of a request before any backend receives it, or returns why it must not go on."""
        grant_json = envoy_api.read_grant(message)
        if grant_json is None:
            log.error("request_without_grant")
            return Code.UNAVAILABLE
        try:
            grant = Grant.from_json(grant_json)
        except ValueError as error:
            log.error("grant_unreadable", reason=str(error))
            return Code.UNAVAILABLE
        if self._outbox.full:
            log.error("outbox_full", request_id=grant.request_id)
            return Code.AUDIT_BACKLOG
        exchange = Exchange(grant, grant_json, time.monotonic)
        self._renewal.add(exchange)
        return exchange


class _Process:
    """One request, from its headers to the end of its answer, whichever side ends it."""

    def __init__(self, service: ExternalProcessor) -> None:
        self._service = service
        self._exchange: Exchange | None = None

    def receive(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        if message.HasField("request_headers"):
            opened = self._service.open(message)
            if isinstance(opened, Code):
                return envoy_api.deny_unopened(opened, message)
            self._exchange = opened
        if self._exchange is None:
            # The answer to a request that authz denied passes here too, without a grant.
            return envoy_api.untouched(message.WhichOneof("request"))
        return envoy_api.respond(self._exchange, message)

    def finish(self) -> None:
        """The last message of Envoy needs no reply."""

    def close(self, cause: Exception | None) -> None:
        if cause is not None:
            log.error("process_failed", request_id=self._exchange.grant.request_id if self._exchange else None)
        if self._exchange is not None:
            self._service.close(self._exchange)
