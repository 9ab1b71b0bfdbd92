from ops.simulator.app import RunningSimulator, SimulatorOptions, run_simulator
from ops.simulator.control.behaviour import Behaviour
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.inspection import installed_names
from tests.ops.simulator.raw_http import call


async def test_a_record_contains_the_request_as_received(server: RunningSimulator) -> None:
    await call(server.url, "/api/chat?a=1", b'{"model": "nope"}', headers="X-Thing: 1\r\nX-Thing: 2\r\n")
    [record] = (await call(server.url, "/_sim/requests?idle_s=5")).json()
    assert record["path"] == "/api/chat"
    assert record["query"] == "a=1"
    assert record["headers"]["x-thing"] == "1, 2"
    assert record["body"] == '{"model": "nope"}'
    assert (record["model"], record["status"], record["finished"]) == ("nope", 404, "complete")
    assert record["started_at"] <= record["ended_at"]
    assert (await call(server.url, "/_sim/requests", method="DELETE")).status == 204
    assert (await call(server.url, "/_sim/requests")).json() == []


async def test_a_put_of_the_behaviour_resets_the_fields_that_it_omits() -> None:
    async with run_simulator(SimulatorOptions(port=0, behaviour=Behaviour(seed=3))) as server:
        first = await call(server.url, "/_sim/behaviour", {"first_byte_s": 0.5}, method="PUT")
        assert (first.json()["first_byte_s"], first.json()["seed"]) == (0.5, 3)
        second = await call(server.url, "/_sim/behaviour", {"faults": [{"kind": "reset"}]}, method="PUT")
        assert (second.json()["first_byte_s"], second.json()["faults"][0]["probability"]) == (0, 1)
        invalid = await call(server.url, "/_sim/behaviour", {"fault": []}, method="PUT")
        assert invalid.status == 400
        assert (await call(server.url, "/_sim/behaviour")).json() == second.json()


async def test_a_put_of_models_replaces_the_installed_ones(server: RunningSimulator) -> None:
    models = ["mistral", {"name": "hf.co/a/b:Q4_K_M", "digest": "d1", "capabilities": ["completion"]}]
    assert (await call(server.url, "/_sim/models", models, method="PUT")).status == 200
    assert await installed_names(server) == {"mistral:latest", "hf.co/a/b:Q4_K_M"}
    assert (await call(server.url, "/api/chat", CHAT)).status == 404
    assert (await call(server.url, "/_sim/models", ["a/b/c/d"], method="PUT")).status == 400
    assert (await call(server.url, "/_sim/models", [], method="PUT")).status == 200
    assert (await call(server.url, "/api/tags")).json() == {"models": []}
    assert (await call(server.url, "/v1/models")).json() == {"object": "list", "data": None}
