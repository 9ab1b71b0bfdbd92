import hashlib

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.inspection import installed_names
from tests.ops.simulator.raw_http import call


async def test_management_routes_change_the_installed_models(server: RunningSimulator) -> None:
    before = await installed_names(server)
    pulled = await call(server.url, "/api/pull", {"name": "mistral"})
    assert pulled.body.splitlines()[-1] == b'{"status":"success"}'
    await call(server.url, "/api/copy", {"source": "mistral", "destination": "alias"})
    await call(server.url, "/api/create", {"model": "own", "from": "alias", "stream": False})
    assert await installed_names(server) == before | {"mistral:latest", "alias:latest", "own:latest"}
    rows = {row["name"]: row for row in (await call(server.url, "/api/tags")).json()["models"]}
    assert rows["own:latest"]["digest"] == rows["mistral:latest"]["digest"]
    for name in ("mistral", "alias", "own"):
        assert (await call(server.url, "/api/delete", {"model": name}, method="DELETE")).status == 200
    assert await installed_names(server) == before
    second_delete = await call(server.url, "/api/delete", {"model": "own"}, method="DELETE")
    assert (second_delete.status, second_delete.json()) == (404, {"error": "model 'own' not found"})


async def test_a_blob_is_stored_only_under_its_digest(server: RunningSimulator) -> None:
    path = f"/api/blobs/sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert (await call(server.url, path, method="HEAD")).status == 404
    assert (await call(server.url, path, b"others")).status == 400
    assert (await call(server.url, path, b"weights")).status == 201
    assert (await call(server.url, path, b"weights")).status == 200
    assert (await call(server.url, path, method="HEAD")).status == 200


async def test_routes_that_ollama_forwards_to_its_cloud_get_the_answer_of_a_server_without_sign_in(
    server: RunningSimulator,
) -> None:
    for path in ("/api/me", "/api/experimental/web_search", "/api/experimental/web_fetch"):
        reply = await call(server.url, path, {})
        assert reply.status == 401
        assert "signin_url" in reply.json()
    assert (await call(server.url, "/api/signout", {})).status == 200
    assert (await call(server.url, "/api/status")).json()["cloud"] == {"disabled": False, "source": "none"}
