from __future__ import annotations

import stat
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import CannotListen, StoreUnavailable
from gateway.service import metrics_server
from tests.ports import free_port


async def get(socket: Path, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.get(f"http://metrics{path}") as response,
    ):
        return response.status, await response.text()


async def test_samplers_run_before_each_exposition_and_nothing_else_is_served(tmp_path: Path) -> None:
    sampled: list[int] = []

    async def sample() -> None:
        sampled.append(len(sampled))

    socket = tmp_path / "m.sock"
    async with metrics_server.serving(f"unix:{socket}", (sample,)):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        status, text = await get(socket, "/metrics")
        assert (status, sampled) == (200, [0])
        assert "# TYPE neuronetz_event_loop_lag_seconds histogram" in text
        await get(socket, "/metrics")
        assert sampled == [0, 1]
        assert [(await get(socket, path))[0] for path in ("/", "/healthz", "/metrics/envoy")] == [404, 404, 404]


async def test_the_page_of_a_program_that_does_not_answer_is_503(tmp_path: Path) -> None:
    answers = ["envoy_server_live 1\n"]

    async def page() -> str:
        if not answers:
            raise StoreUnavailable("Envoy's admin interface does not respond")
        return answers.pop()

    socket = tmp_path / "m.sock"
    async with metrics_server.serving(f"unix:{socket}", pages={"/metrics/envoy": page}):
        assert await get(socket, "/metrics/envoy") == (200, "envoy_server_live 1\n")
        assert await get(socket, "/metrics/envoy") == (503, "Envoy's admin interface does not respond")


async def test_an_occupied_address_is_reported() -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with metrics_server.serving(listen):
        with pytest.raises(CannotListen, match="address already in use"):
            async with metrics_server.serving(listen):
                pass


async def test_without_an_address_nothing_is_served() -> None:
    async with metrics_server.serving(None):
        pass
