"""The health of a gRPC server. Envoy checks it twice a second, and a server that stops reports NOT_SERVING first.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

log = structlog.get_logger()

# Three of Envoy's health checks (envoy/bootstrap.yaml): by then every Envoy has seen NOT_SERVING.
SHUTDOWN_NOTICE_S = 1.5


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]
    """Reports one server as SERVING until `announce_shutdown`."""

    def __init__(self, shutdown_notice_s: float) -> None:
        super().__init__()
        self._shutdown_notice_s = shutdown_notice_s

    async def Watch(  # noqa: N802
        self, _request: HealthCheckRequest, context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> NoReturn:
        """Aborts with UNIMPLEMENTED: an open watch would delay the server's stop by its whole grace time."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")

    async def announce_shutdown(self) -> None:
        """Reports NOT_SERVING from now on and returns when every Envoy has seen it. Calls are still served."""
        await self.enter_graceful_shutdown()
        log.info("shutdown_announced")
        await asyncio.sleep(self._shutdown_notice_s)


def add_health(server: grpc.aio.Server, shutdown_notice_s: float = SHUTDOWN_NOTICE_S) -> HealthServicer:
    """Adds the health service to `server`, which has not started yet."""
    servicer = HealthServicer(shutdown_notice_s)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer
