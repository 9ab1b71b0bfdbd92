from ops.simulator.app import RunningSimulator
from tests.ops.simulator.raw_http import call


async def test_only_the_older_embedding_route_is_case_sensitive(server: RunningSimulator) -> None:
    body = {"model": "Nomic-embed-text", "prompt": "a", "input": "a"}
    assert (await call(server.url, "/api/embed", body)).status == 200
    assert (await call(server.url, "/api/embeddings", body)).status == 404
