from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from gateway.rpc.health import Health
from tests.gateway.rpc.echo import TRANSPORTS

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Served(NamedTuple):
    """The health of a running server, and a client of it."""

    health: Health
    client: HealthStub


@pytest.fixture(params=TRANSPORTS)
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    health = Health(shutdown_notice_s=0)
    server = TRANSPORTS[request.param](health.methods(), 1024)
    address = f"unix:{tmp_path}/health.sock"
    await server.start(address)
    async with grpc.aio.insecure_channel(address) as channel:
        yield Served(health, HealthStub(channel))
    await server.stop(0)


async def test_a_server_is_serving_until_it_announces_its_shutdown(served: Served) -> None:
    assert (await served.client.Check(HealthCheckRequest())).status == SERVING
    await served.health.announce_shutdown()
    # The call itself shows that calls are still served.
    assert (await served.client.Check(HealthCheckRequest())).status == NOT_SERVING


async def test_a_service_that_the_server_does_not_have_is_not_found(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await served.client.Check(HealthCheckRequest(service="another"))
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_is_refused_so_that_it_delays_no_shutdown(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in served.client.Watch(HealthCheckRequest()):
            pass
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
