"""The health of a gRPC server. Envoy checks it twice a second, and a server that stops reports NOT_SERVING first.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio

import structlog
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from gateway.rpc.methods import Metadata, Method, RpcError, Session, Status, Streaming, Unary

log = structlog.get_logger()

# Three of Envoy's health checks (envoy/bootstrap.yaml): by then every Envoy has seen NOT_SERVING.
SHUTDOWN_NOTICE_S = 1.5


class Health:
    """Reports one server as SERVING until `announce_shutdown`."""

    def __init__(self, shutdown_notice_s: float = SHUTDOWN_NOTICE_S) -> None:
        self._shutdown_notice_s = shutdown_notice_s
        self._status = HealthCheckResponse.SERVING

    def methods(self) -> tuple[Method, ...]:
        """The methods of `grpc.health.v1.Health`."""
        return (
            Unary("/grpc.health.v1.Health/Check", HealthCheckRequest, self._check),
            Streaming("/grpc.health.v1.Health/Watch", HealthCheckRequest, _refuse_watch),
        )

    async def announce_shutdown(self) -> None:
        """Reports NOT_SERVING from now on and returns when every Envoy has seen it. Calls are still served."""
        self._status = HealthCheckResponse.NOT_SERVING
        log.info("shutdown_announced")
        await asyncio.sleep(self._shutdown_notice_s)

    def _check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        if request.service:
            raise RpcError(Status.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=self._status)


def _refuse_watch(_: Metadata) -> Session:
    """An open watch would delay the server's stop by its whole grace time."""
    raise RpcError(Status.UNIMPLEMENTED, "use Check")
