import pytest
from pydantic import SecretStr

from ops.simulator.access import Auth, is_local_host
from ops.simulator.app import RunningSimulator, SimulatorOptions, run_simulator
from tests.ops.simulator.raw_http import call


@pytest.mark.parametrize(
    ("auth", "header", "status"),
    [
        (Auth(SecretStr("t0ken")), "Authorization: Bearer t0ken\r\n", 200),
        (Auth(SecretStr("t0ken")), "Authorization: t0ken\r\n", 401),
        (Auth(SecretStr("t0ken")), "", 401),
        (Auth(SecretStr("t0ken"), "X-Token"), "X-Token: t0ken\r\n", 200),
        (Auth(SecretStr("t0ken"), other_tokens=(SecretStr("next"),)), "Authorization: Bearer next\r\n", 200),
        (Auth(SecretStr("t0ken"), "X-Token"), "X-Token: other\r\n", 401),
    ],
)
async def test_every_path_except_the_version_requires_the_credential(auth: Auth, header: str, status: int) -> None:
    async with run_simulator(SimulatorOptions(port=0, auth=auth)) as server:
        assert (await call(server.url, "/api/tags", headers=header)).status == status
        assert (await call(server.url, "/nowhere", headers=header)).status == (404 if status == 200 else 401)
        assert (await call(server.url, "/api/version")).status == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost:11434", True), ("127.0.0.1", True), ("[::1]:5", True), ("10.1.2.3", True), ("a.internal:80", True),
        ("example.com", False), ("8.8.8.8", False), ("[", False),
    ],
)  # fmt: skip
def test_only_local_host_names_are_served(host: str, local: bool) -> None:
    assert is_local_host(host) is local


async def test_a_foreign_origin_gets_an_empty_403(server: RunningSimulator) -> None:
    foreign = await call(server.url, "/api/tags", headers="Origin: https://evil.example\r\n")
    local = await call(server.url, "/api/tags", headers="Origin: http://localhost:3000\r\n")
    assert (foreign.status, foreign.body, local.status) == (403, b"", 200)
