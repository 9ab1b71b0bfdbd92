"""The gRPC edge of authz: CheckRequest in, CheckResponse out. Decides nothing."""

from __future__ import annotations

from typing import Any

import grpc
import structlog
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from authz import envoy_api
from authz.admit import NotAdmitted
from authz.check import CheckPipeline
from gateway.settings import Settings

log = structlog.get_logger()


class AuthorizationServicer(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    """envoy.service.auth.v3.Authorization."""

    def __init__(self, gate: CheckPipeline, settings: Settings) -> None:
        self._gate = gate
        self._trusted = settings.trusted_networks

    async def Check(  # noqa: N802 (the protocol's name)
        self, request: external_auth_pb2.CheckRequest, _: grpc.aio.ServicerContext[Any, Any]
    ) -> external_auth_pb2.CheckResponse:
        """One request at the door. An error that nobody foresaw fails the call, which Envoy answers with a 503."""
        attempt = envoy_api.read_check(request, self._trusted)
        try:
            decision = await self._gate.check(attempt)
        except Exception:
            log.exception("check_failed", path=attempt.path, request_id=attempt.request_id)
            raise
        if isinstance(decision, NotAdmitted):
            return envoy_api.denied(attempt, decision.denial, decision.headers)
        return envoy_api.admitted(decision.grant, decision.attempts, decision.headers)
