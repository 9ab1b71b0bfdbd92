"""The gRPC edge of authz: CheckRequest in, CheckResponse out. Decides nothing."""

from __future__ import annotations

from typing import Any

import grpc
import structlog
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from authz import envoy_api
from authz.admit import Admitted
from authz.check import CheckPipeline
from gateway.settings import Settings

log = structlog.get_logger()


class AuthorizationServicer(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    """envoy.service.auth.v3.Authorization."""

    def __init__(self, pipeline: CheckPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._trusted = settings.trusted_networks

    async def Check(  # noqa: N802 (the protocol's name)
        self, request: external_auth_pb2.CheckRequest, _: grpc.aio.ServicerContext[Any, Any]
    ) -> external_auth_pb2.CheckResponse:
        """Checks one request. An unexpected error fails the call, which Envoy answers with a 503."""
        checked = envoy_api.read_check(request, self._trusted)
        try:
            decision = await self._pipeline.check(checked)
        except Exception:
            log.exception("check_failed", path=checked.path, request_id=checked.request_id)
            raise
        if isinstance(decision, Admitted):
            return envoy_api.admitted(decision)
        return envoy_api.denied(checked, decision)
