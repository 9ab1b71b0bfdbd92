import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.raw_http import call


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_reports_that_ollama_is_running(server: RunningSimulator, method: str) -> None:
    reply = await call(server.url, "/", method=method)
    assert (reply.status, reply.body) == (200, b"Ollama is running" if method == "GET" else b"")
    assert "server" not in reply.headers


async def test_ps_lists_the_loaded_models(server: RunningSimulator) -> None:
    async def loaded() -> list[str]:
        return [row["name"] for row in (await call(server.url, "/api/ps")).json()["models"]]

    assert await loaded() == []
    reply = await call(server.url, "/api/generate", {"model": "LLAMA3.2"})
    assert (reply.json()["done_reason"], reply.json()["model"]) == ("load", "LLAMA3.2")
    assert await loaded() == ["llama3.2:latest"]
    await call(server.url, "/api/chat", {**CHAT, "model": "qwen3:8b", "keep_alive": "-1m"})
    assert set(await loaded()) == {"llama3.2:latest", "qwen3:8b"}
    reply = await call(server.url, "/api/chat", {"model": "llama3.2", "keep_alive": "0s"})
    assert reply.json()["done_reason"] == "unload"
    assert await loaded() == ["qwen3:8b"]
    await call(server.url, "/api/chat", {**CHAT, "model": "qwen3:8b", "keep_alive": 0})
    assert await loaded() == []
