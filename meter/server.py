"""The gRPC edge of the meter: one bidirectional stream per proxied request. It decides nothing about the answer.

A handler that returned early would let the rest of the answer pass unmetered. So it returns only after Envoy has closed
its side, and otherwise ends with an error, which makes Envoy cut both sides.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import grpc
import structlog
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc

from gateway.errors import Code
from gateway.ledger.outbox import Outbox
from gateway.record.grant import Grant
from meter import envoy_api
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.exchange import Exchange
from meter.prompt_log.writer import PromptWriter
from meter.renewal import Renewal

log = structlog.get_logger()

FINISH_TIMEOUT_S = 2.0
# How long the last message of an answer waits for its settlement. Envoy's `message_timeout` for each message is 2 s.
SETTLE_WAIT_S = 0.25


class ExternalProcessorServicer(external_processor_pb2_grpc.ExternalProcessorServicer):  # type: ignore[misc]
    """envoy.service.ext_proc.v3.ExternalProcessor.

    The message that ends an answer is released only when its settlement is stored, so that a meter that is killed
    afterwards does not lose it. `settle_wait_s` bounds that wait. Without a reply of the store in that time, the
    message goes out and the outbox settles the request as soon as it can. The entry is final before the wait: a caller
    that leaves during it has the outcome of the answer, because the backend has done all its work.
    """

    def __init__(
        self,
        outbox: Outbox,
        renewal: Renewal,
        disconnect_causes: DisconnectCauses,
        prompts: PromptWriter,
        *,
        settle_wait_s: float = SETTLE_WAIT_S,
    ) -> None:
        self._outbox = outbox
        self._renewal = renewal
        self._disconnect_causes = disconnect_causes
        self._prompts = prompts
        self._settle_wait_s = settle_wait_s
        self._handlers: set[asyncio.Task[object]] = set()

    async def finished(self) -> None:
        """Returns when no handler runs. grpc.aio reports a stopped server before its last handlers have ended."""
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=FINISH_TIMEOUT_S)

    async def Process(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: N802
        """One request, from its headers to the end of its answer, whichever side ends it."""
        exchange: Exchange | None = None
        settled = False
        handler = asyncio.current_task()
        assert handler is not None  # noqa: S101 (every coroutine of a server runs in a task)
        self._handlers.add(handler)
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                if message.HasField("request_headers"):
                    opened = self._open(message)
                    if isinstance(opened, Code):
                        await context.write(envoy_api.deny_unopened(opened, message))
                        continue
                    exchange = opened
                if exchange is None:
                    # The answer to a request that authz denied passes here too, without a grant.
                    await context.write(envoy_api.untouched(message.WhichOneof("request")))
                else:
                    response = envoy_api.respond(exchange, message)
                    if not settled and (entry := exchange.final_entry) is not None:
                        settled = True
                        self._renewal.discard(exchange)
                        if not await self._outbox.settle(entry, self._settle_wait_s):
                            log.warning("released_before_settled", request_id=entry.request_id)
                    await context.write(response)
        except Exception:
            log.exception("process_failed", request_id=exchange.grant.request_id if exchange else None)
            raise
        finally:
            self._handlers.discard(handler)
            if exchange is not None:
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

    def _open(self, message: ext_proc.ProcessingRequest) -> Exchange | Code:
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
        self._disconnect_causes.register(grant.request_id)
        return exchange
