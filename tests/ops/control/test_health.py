from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from ops.control.health import application


async def test_control_lives_even_when_it_is_not_ready_and_says_what_is_missing() -> None:
    missing = ["redis"]

    async def ask() -> list[str]:
        return missing

    async with TestClient(TestServer(application(ask))) as client:
        assert (await client.get("/healthz")).status == 200
        answer = await client.get("/readyz")
        assert (answer.status, await answer.json()) == (503, ["redis"])
        missing.clear()
        answer = await client.get("/readyz")
        assert (answer.status, await answer.json()) == (200, {"status": "ready"})
        assert (await client.get("/anything")).status == 404
