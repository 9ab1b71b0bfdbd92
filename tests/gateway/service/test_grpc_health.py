from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from gateway.service import grpc_health, grpc_server

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Served(NamedTuple):
    """A running server's health and a client of it."""

    servicer: grpc_health.HealthServicer
    client: HealthStub


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    server = grpc_server.make_server(1024)
    servicer = grpc_health.add_health(server, shutdown_notice_s=0)
    address = f"unix:{tmp_path}/health.sock"
    await grpc_server.start(server, address)
    async with grpc.aio.insecure_channel(address) as channel:
        yield Served(servicer, HealthStub(channel))
    await server.stop(None)


async def test_a_server_is_serving_until_it_announces_its_shutdown(served: Served) -> None:
    assert (await served.client.Check(HealthCheckRequest())).status == SERVING
    await served.servicer.announce_shutdown()
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
