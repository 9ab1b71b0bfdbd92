"""compose.yaml on a real engine: published ports, reachability between services, chats and audit rows.

`make compose-test` runs these tests. `make test` needs no Docker and skips this folder.
"""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from ops.compose.prepare import SERVICE_ROLE
from tests.compose.conftest import BACKEND_TOKEN, POSTGRES_PASSWORD
from tests.compose.load import MODEL, chat_body, complete_chat, load
from tests.compose.project import ROOT, SERVICES, Project, eventually, run


def audit_rows(project: Project, ids: list[str]) -> dict[str, list[list[str]]]:
    """Waits until each of these requests has an audit row. Returns (outcome, output tokens) by request id."""

    def read() -> dict[str, list[list[str]]] | None:
        found: dict[str, list[list[str]]] = {each: [] for each in ids}
        for request_id, *rest in project.sql("SELECT request_id, outcome, output_tokens FROM gateway.audit_log"):
            if request_id in found:
                found[request_id].append(rest)
        return found if all(found.values()) else None

    return eventually(read, "every request has its row")


def test_a_chat_streams_through_caddy_with_tls_and_has_a_row(project: Project, key: str) -> None:
    with project.client(key) as client, client.stream("POST", "/api/chat", json=chat_body(40)) as answer:
        assert answer.status_code == 200, answer.read()
        frames = [json.loads(line) for line in answer.iter_lines()]
    assert frames[-1]["done"]
    assert len(frames) > 10
    (row,) = audit_rows(project, [answer.headers["x-request-id"]]).popitem()[1]
    assert row == ["complete", str(frames[-1]["eval_count"])]


def test_the_first_chunk_arrives_before_the_answer_is_complete(project: Project, key: str) -> None:
    # The answer takes a minute. If it were buffered, the client would time out before the first chunk.
    with project.client(key) as client, client.stream("POST", "/api/chat", json=chat_body(3600)) as answer:
        first = json.loads(next(answer.iter_lines()))
    assert first["message"]["content"]
    assert not first["done"]


def test_the_volumes_of_an_earlier_installation_are_used_in_place(project: Project, earlier: Project, key: str) -> None:
    used = {
        mount["Destination"]: mount["Name"]
        for service in ("postgres", "ollama")
        for mount in project.inspect(service)["Mounts"]
        if mount["Type"] == "volume"
    }
    assert used["/var/lib/postgresql"] == f"{earlier.name}_postgres-data"
    assert used["/root/.ollama"] == f"{earlier.name}_ollama-data"
    assert "adopted" in [tenant["name"] for tenant in project.cli("list-tenants")]
    with project.client(key) as client:
        assert MODEL in [model["name"] for model in client.get("/api/tags").json()["models"]]


def test_only_caddy_publishes_ports(project: Project) -> None:
    published = {
        (service, binding["HostIp"], port, binding["HostPort"])
        for service in SERVICES
        for port, bindings in project.inspect(service)["HostConfig"]["PortBindings"].items()
        for binding in bindings
    }
    http, https = str(project.http_port), str(project.https_port)
    assert published == {
        ("caddy", "127.0.0.1", "80/tcp", http),
        ("caddy", "127.0.0.1", "443/tcp", https),
        ("caddy", "127.0.0.1", "443/udp", https),
    }


@pytest.mark.parametrize("service", SERVICES)
def test_only_caddy_is_on_a_network_with_internet_access(project: Project, service: str) -> None:
    networks = json.loads(run("docker", "network", "inspect", *project.inspect(service)["NetworkSettings"]["Networks"]))
    external = {network["Name"].removeprefix(f"{project.name}_") for network in networks if not network["Internal"]}
    assert external == ({"public"} if service == "caddy" else set())


@pytest.mark.parametrize("service", SERVICES)
def test_only_envoy_and_control_can_resolve_ollama(project: Project, service: str) -> None:
    name = "ollama" if service != "ollama" else "postgres"
    lookup = subprocess.run(
        ["docker", "exec", project.containers(service)[0], "timeout", "5", "getent", "hosts", name],
        capture_output=True,
        check=False,
    )
    assert (lookup.returncode == 0) is (service in {"envoy", "control"})


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_privileges_and_a_read_only_root(project: Project, service: str) -> None:
    host = project.inspect(service)["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert [each.removeprefix("CAP_") for each in host["CapAdd"] or []] == (
        ["NET_BIND_SERVICE"] if service == "caddy" else []
    )
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
    status = dict(
        line.split(":\t", 1) for line in project.execute(service, "cat", "/proc/1/status").splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0
    users = {"postgres": "999", "ollama": "0"}
    assert set(status["Uid"].split()) == {users.get(service, "10001")}


def test_no_output_of_the_engine_contains_a_secret(project: Project, key: str) -> None:
    redis_password = project.execute("redis", "cat", "/run/secrets/redis/password").strip()
    service_password = project.execute("authz", "cat", "/run/gateway/postgres-password").strip()
    passwords = [POSTGRES_PASSWORD, POSTGRES_PASSWORD.partition("$")[0], service_password, redis_password]
    secrets = [*passwords, BACKEND_TOKEN, key]
    ids = project.compose("ps", "-a", "-q").split()
    outputs = [
        run("docker", "inspect", *ids),
        project.compose("logs", "--no-color"),
        project.compose("config"),
        *(
            run("docker", "history", "--no-trunc", run("docker", "inspect", "-f", "{{.Image}}", each).strip())
            for each in ids
        ),
        *(project.compose("top", service) for service in SERVICES),
    ]
    assert [secret for secret in secrets for text in outputs if secret in text] == []


def test_authz_and_meter_never_see_a_backends_token(project: Project) -> None:
    for service, seen in (("authz", False), ("meter", False), ("control", True)):
        assert (BACKEND_TOKEN in project.execute(service, "cat", "/run/gateway/gateway.env")) is seen


@pytest.mark.parametrize("service", ["authz", "meter"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.audit_log SET output_tokens = 0",
        "DELETE FROM gateway.audit_log",
        "TRUNCATE gateway.audit_log",
        "CREATE TABLE public.mine (n int)",
        "COPY gateway.tenants TO PROGRAM 'true'",
        "SELECT * FROM pg_authid",
    ],
)
def test_the_database_login_of_authz_and_meter_can_neither_rewrite_records_nor_run_programs(
    project: Project, service: str, statement: str
) -> None:
    output = project.execute(service, "python", "-P", "-c", _EXECUTE_AS_SERVICE, statement)
    assert output.split() == [SERVICE_ROLE, "InsufficientPrivilegeError"]
    assert POSTGRES_PASSWORD not in project.execute(service, "sh", "-c", "cat /run/gateway/*")


# Executes a statement with the login of the service, and prints the user and the result.
_EXECUTE_AS_SERVICE = """
import asyncio, sys, asyncpg
from gateway.settings import load

async def main():
    connection = await asyncpg.connect(load().database_url.get_secret_value())
    print(await connection.fetchval("SELECT user"))
    try:
        await connection.execute(sys.argv[1])
        print("done")
    except asyncpg.PostgresError as error:
        print(type(error).__name__)

asyncio.run(main())
"""


def test_answers_carry_the_security_headers_and_name_no_server(project: Project, key: str) -> None:
    with project.client(key) as client:
        answers = [client.get("/healthz"), client.post("/api/chat", json=chat_body()), client.get("/nowhere")]
    for answer in answers:
        assert answer.headers["Strict-Transport-Security"] == "max-age=63072000; includeSubDomains; preload"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in answer.headers
        assert "Via" not in answer.headers


def test_http_2_is_served_http_3_offered_and_plain_http_redirected(project: Project) -> None:
    trust = project.authority()
    trust.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", project.https_port), 10) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
    with project.client() as client:
        assert client.get("/healthz").headers["Alt-Svc"].startswith('h3=":443"')
    redirect = httpx.get(f"http://127.0.0.1:{project.http_port}/api/tags", headers={"Host": "gateway.example"})
    assert (redirect.status_code, redirect.headers["Location"]) == (308, "https://gateway.example/api/tags")
    assert "Server" not in redirect.headers


def test_the_audit_row_has_the_address_of_the_client_and_not_of_a_proxy(project: Project, key: str) -> None:
    request_id = complete_chat(project, key)
    audit_rows(project, [request_id])
    addresses = dict(project.sql("SELECT request_id, client_ip FROM gateway.audit_log"))
    # A client on this machine has the address of the public network's gateway, which no service has.
    public = json.loads(run("docker", "network", "inspect", f"{project.name}_public"))[0]
    assert addresses[request_id] == public["IPAM"]["Config"][0]["Gateway"]


def test_a_pulled_model_is_served_without_internet_access_for_the_server(project: Project, key: str) -> None:
    project.compose("run", "--rm", "pull", "pulled-model")
    project.compose("restart", "ollama")

    def listed() -> bool:
        with project.client(key) as client:
            return "pulled-model:latest" in [model["name"] for model in client.get("/api/tags").json()["models"]]

    eventually(listed, "the pulled model is listed")


@pytest.mark.parametrize("service", ["authz", "meter", "control", "envoy", "caddy", "redis", "postgres", "ollama"])
def test_a_killed_service_restarts_and_no_row_is_missing_or_duplicated(
    project: Project, key: str, service: str
) -> None:
    before = [complete_chat(project, key) for _ in range(3)]
    with load(project, key) as result:
        eventually(lambda: len(result.complete) >= 3, "the load has started")
        project.kill(service)
    after = complete_chat(project, key)
    rows = audit_rows(project, [*before, *result.complete, after])
    assert {
        request_id: found for request_id, found in rows.items() if [each[0] for each in found] != ["complete"]
    } == {}
    assert project.sql("SELECT request_id FROM gateway.audit_log GROUP BY request_id HAVING count(*) > 1") == []


def test_requests_are_balanced_over_the_replicas(project: Project, key: str) -> None:
    project.up("--no-recreate", "--scale", "authz=3", "--scale", "meter=3")

    def totals(service: str) -> list[int]:
        stats = project.execute("envoy", "bash", "/opt/envoy.sh", "get", "/clusters")
        lines = [line.split("::") for line in stats.splitlines() if line.startswith(f"{service}::")]
        return [int(line[3]) for line in lines if line[2] == "rq_total"]

    eventually(lambda: len(totals("authz")) == len(totals("meter")) == 3, "Envoy has found every replica")
    before = {service: totals(service) for service in ("authz", "meter")}
    with load(project, key) as result:
        eventually(lambda: len(result.complete) >= 60, "the load continues")
    assert result.failed == []
    for service in ("authz", "meter"):
        shares = [now - then for now, then in zip(totals(service), before[service], strict=True)]
        assert min(shares) >= sum(shares) / 6, (service, shares)
    project.up("--no-recreate")


def test_replacing_every_authz_and_meter_fails_no_request(project: Project, key: str) -> None:
    old = {*project.containers("authz"), *project.containers("meter")}
    with load(project, key) as result:
        run(str(ROOT / "ops/compose/roll.sh"), env=project.environ)
    assert result.failed == []
    assert old.isdisjoint({*project.containers("authz"), *project.containers("meter")})
    rows = audit_rows(project, result.complete)
    assert {
        request_id: found for request_id, found in rows.items() if [each[0] for each in found] != ["complete"]
    } == {}


def test_a_backend_changed_in_the_env_file_is_applied_without_a_restart(project: Project, key: str) -> None:
    project.settings["OLLAMA_BACKENDS"] = '[{"name": "renamed", "base_url": "http://ollama:11434"}]'
    project.write_settings()
    project.compose("run", "--rm", "prepare")

    def in_use() -> bool:
        request_id = complete_chat(project, key)
        audit_rows(project, [request_id])
        return dict(project.sql("SELECT request_id, backend FROM gateway.audit_log"))[request_id] == "renamed"

    eventually(in_use, "requests go to the backend of the env file")
    del project.settings["OLLAMA_BACKENDS"]
    project.write_settings()
    project.compose("run", "--rm", "prepare")


def test_a_restart_of_all_services_retains_the_data(project: Project, key: str) -> None:
    request_id = complete_chat(project, key)
    audit_rows(project, [request_id])
    project.compose("down", "--timeout", "40")
    project.up()
    complete_chat(project, key)
    assert [each[0] for each in audit_rows(project, [request_id])[request_id]] == ["complete"]


def test_a_backup_restores_keys_policies_and_the_ledger_on_an_empty_server(
    project: Project, key: str, tmp_path: Path
) -> None:
    request_id = complete_chat(project, key)
    audit_rows(project, [request_id])
    backup = subprocess.run(
        [
            "docker",
            "compose",
            "exec",
            "-T",
            "postgres",
            "pg_dump",
            "-h",
            "127.0.0.1",
            "-U",
            "gateway",
            "-Fc",
            "gateway",
        ],
        env=project.environ,
        capture_output=True,
        check=True,
    ).stdout
    budgets = project.sql("SELECT * FROM gateway.budget_usage ORDER BY 1, 2, 3, 4")
    audit = project.sql("SELECT * FROM gateway.audit_log ORDER BY request_id")

    restored = Project(f"{project.name}-restored", tmp_path, {"EDGE_SUBNET": "172.16.236.0/28"})
    project.compose("stop", "--timeout", "40")
    try:
        restored.compose("up", "-d", "--wait", "--no-build", "postgres")
        restored.compose(
            "exec",
            "-T",
            "postgres",
            "pg_restore",
            "--no-privileges",
            "-h",
            "127.0.0.1",
            "-U",
            "gateway",
            "-d",
            "gateway",
            stdin=backup,
        )
        restored.compose("run", "--rm", "--no-deps", "ollama", "pull", "adopted-model")
        restored.up()
        assert restored.sql("SELECT * FROM gateway.budget_usage ORDER BY 1, 2, 3, 4") == budgets
        assert restored.sql("SELECT * FROM gateway.audit_log ORDER BY request_id") == audit
        complete_chat(restored, key)
    finally:
        restored.down()
        project.up()
    assert restored.remaining_resources() == []


@pytest.mark.parametrize("overlay", sorted(path.name for path in ROOT.glob("compose.*.yaml")))
def test_an_overlay_is_valid(project: Project, overlay: str, tmp_path: Path) -> None:
    settings = {"NGINX_PROXY_SUBNET": "192.0.2.0/24", "GATEWAY_DOMAIN": "gateway.example"}
    with_overlay = Project("overlay", tmp_path, settings, ("compose.yaml", overlay))
    services = json.loads(with_overlay.compose("config", "--format", "json"))["services"]
    published = {name for name, service in services.items() if service.get("ports")}
    assert published == (set() if "nginx" in overlay else {"caddy"})
