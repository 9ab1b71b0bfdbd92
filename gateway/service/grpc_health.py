"""Whether a server wants new calls: Envoy asks every half second, and a server that is about to stop says no first.

Answers `grpc.health.v1.Health/Check`; its two messages are so small that they are written out here.
Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio

import grpc
import structlog

log = structlog.get_logger()

# HealthCheckResponse.status, field 1: SERVING is 1, NOT_SERVING is 2.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
# Three of Envoy's questions (envoy/bootstrap.yaml); by then every Envoy has heard it.
LEAVING_S = 1.5


class Health:
    """The health of one server, which serves until it is told to leave."""

    def __init__(self) -> None:
        self._answer = _SERVING

    def handler(self) -> grpc.GenericRpcHandler:
        """For `add_generic_rpc_handlers`."""
        check: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._check)
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})

    async def leave(self) -> None:
        """Says no from now on, and returns when nobody sends new calls here any more. Calls are still served."""
        self._answer = _NOT_SERVING
        log.info("leaving")
        await asyncio.sleep(LEAVING_S)

    async def _check(self, _request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return self._answer
