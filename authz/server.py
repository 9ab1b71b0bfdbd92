"""The gRPC edge of authz: CheckRequest in, CheckResponse out. Decides nothing."""

from __future__ import annotations

import structlog
from envoy.service.auth.v3 import external_auth_pb2

from authz import envoy_api
from authz.admit import Admitted
from authz.check import CheckPipeline
from gateway.rpc.methods import Method, Unary
from gateway.settings import Settings

log = structlog.get_logger()


class Authorization:
    """envoy.service.auth.v3.Authorization."""

    def __init__(self, pipeline: CheckPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._trusted = settings.trusted_networks

    def methods(self) -> tuple[Method, ...]:
        """The methods of the service."""
        return (Unary("/envoy.service.auth.v3.Authorization/Check", external_auth_pb2.CheckRequest, self.check),)

    async def check(self, request: external_auth_pb2.CheckRequest) -> external_auth_pb2.CheckResponse:
        """Checks one request. An unexpected error fails the call, which Envoy answers with a 503."""
        checked = envoy_api.read_check(request, self._trusted)
        try:
            decision = await self._pipeline.check(checked)
        except Exception:
            log.error("check_failed", path=checked.path, request_id=checked.request_id)
            raise
        if isinstance(decision, Admitted):
            return envoy_api.admitted(decision)
        return envoy_api.denied(checked, decision)
