"""The gRPC edge of authz: CheckRequest in, CheckResponse out. Decides nothing."""

from __future__ import annotations

import time

import structlog
from envoy.service.auth.v3 import external_auth_pb2

from authz import envoy_api
from authz.admit import Admitted, Denial
from authz.check import CheckPipeline
from authz.check_span import check_span
from authz.checked_request import CheckedRequest
from gateway.rpc.methods import Method, Unary
from gateway.settings import Settings
from gateway.tracing.span import SpanExporter, sampled_context

log = structlog.get_logger()


class Authorization:
    """envoy.service.auth.v3.Authorization. With `spans` each check of a sampled request has a span."""

    def __init__(self, pipeline: CheckPipeline, settings: Settings, spans: SpanExporter | None = None) -> None:
        self._pipeline = pipeline
        self._trusted = settings.trusted_networks
        self._spans = spans

    def methods(self) -> tuple[Method, ...]:
        """The methods of the service."""
        path = "/envoy.service.auth.v3.Authorization/Check"
        traced = None if self._spans is None else self.check_traced
        return (Unary(path, external_auth_pb2.CheckRequest, self.check, traced),)

    async def check(self, request: external_auth_pb2.CheckRequest) -> bytes:
        """Checks one request and encodes the response. An unexpected error fails the call; Envoy answers with a 503."""
        checked = envoy_api.read_check(request, self._trusted)
        # It has a copy of the body, and the request may wait for long.
        del request
        return _response(checked, await self._decide(checked))

    async def check_traced(self, request: external_auth_pb2.CheckRequest, traceparent: str) -> bytes:
        """Like `check`. Exports the span of the check when it ends, also by an error or because the caller left."""
        start_ns = time.time_ns()
        checked = envoy_api.read_check(request, self._trusted)
        del request
        parent = sampled_context(traceparent)
        if parent is None or self._spans is None:
            return _response(checked, await self._decide(checked))
        decision: Admitted | Denial | BaseException
        try:
            decision = await self._decide(checked)
        except BaseException as error:
            decision = error
            raise
        finally:
            self._spans.export(parent, lambda: check_span(checked, decision, start_ns, time.time_ns()))
        return _response(checked, decision)

    async def _decide(self, checked: CheckedRequest) -> Admitted | Denial:
        try:
            return await self._pipeline.check(checked)
        except Exception:
            log.error("check_failed", path=checked.path, request_id=checked.request_id)
            raise


def _response(checked: CheckedRequest, decision: Admitted | Denial) -> bytes:
    if isinstance(decision, Admitted):
        return envoy_api.admitted(decision, checked.header_names)
    return envoy_api.denied(checked, decision)
