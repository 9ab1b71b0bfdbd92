"""The env file of `up`: the lines that it sets, and the lines that it keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.settings import load
from ops.embedded import configuration
from ops.embedded.errors import StackError
from ops.embedded.options import HostPort, StackOptions
from ops.embedded.state import StateDirectory, open_state
from ops.embedded.stores import Address, Addresses
from ops.host import env_file

STORES = Addresses(
    postgres=Address(20001, "p/w d"),
    redis=Address(20002, "x@y"),
    service_password="s/w d",
    redis_socket=Path("/state dir/redis.sock"),
)
LISTEN = HostPort("127.0.0.1", 20003)


def _write(state: StateDirectory, **options: object) -> dict[str, str]:
    chosen = StackOptions(**{"state_dir": state.root, "workers": 2, **options})  # type: ignore[arg-type]
    configuration.write_env_file(state, chosen, LISTEN, STORES)
    return env_file.read(state.env_file)


def test_the_services_load_the_settings_that_up_writes(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        _write(state, backends=(("one", "http://127.0.0.1:1"), ("two", "https://two.example")))
        settings = load(state.env_file)
    assert settings.database_url.get_secret_value() == "postgresql://gateway:p%2Fw%20d@127.0.0.1:20001/gateway"
    assert settings.database_service_role == "gateway_service"
    service_url = "postgresql://gateway_service:s%2Fw%20d@127.0.0.1:20001/gateway"
    redis_url = "unix://:x%40y@/state%20dir/redis.sock?db=0"
    assert STORES.service_env() == {"DATABASE_URL": service_url, "REDIS_URL": redis_url}
    assert settings.redis_url.get_secret_value() == "redis://:x%40y@127.0.0.1:20002/0"
    assert (settings.gateway_bind_host, settings.gateway_bind_port) == ("127.0.0.1", 20003)
    assert [(backend.name, backend.base_url) for backend in settings.backends] == [
        ("one", "http://127.0.0.1:1"),
        ("two", "https://two.example"),
    ]
    assert len(settings.authz_grpc_targets) == len(settings.meter_grpc_targets) == 2
    assert settings.envoy_config_dir == state.envoy


def test_lines_of_the_operator_survive_the_next_start(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        _write(state, defaults={"PLAYGROUND_ENABLED": "true"})
        changed = state.env_file.read_text().replace("PLAYGROUND_ENABLED=true", "PLAYGROUND_ENABLED=false")
        state.env_file.write_text(changed + "# ours\nDEFAULT_RPM=7\nOLLAMA_AUTH_TOKEN=secret\n")
        before = state.env_file.read_text()
        _write(state, defaults={"PLAYGROUND_ENABLED": "true"})
        assert state.env_file.read_text() == before


def test_the_default_backend_is_the_local_ollama(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        assert _write(state)["OLLAMA_BASE_URL"] == "http://127.0.0.1:11434"


def test_a_token_is_kept_only_for_the_same_name_and_url() -> None:
    current = json.dumps([{"name": "one", "base_url": "http://one", "auth_token": "t", "auth_scheme": "Key"}])
    assert configuration.merge_backends(current, [("one", "http://one")]) == json.loads(current)
    assert configuration.merge_backends(current, [("one", "http://elsewhere"), ("two", "http://one")]) == [
        {"name": "one", "base_url": "http://elsewhere"},
        {"name": "two", "base_url": "http://one"},
    ]
    assert configuration.merge_backends("[broken", [("a", "http://a")]) == [{"name": "a", "base_url": "http://a"}]


def test_the_listen_address_is_from_the_option_then_the_env_file_then_the_default(tmp_path: Path) -> None:
    current = {"GATEWAY_BIND_HOST": "127.0.0.2", "GATEWAY_BIND_PORT": "9"}
    assert configuration.listen_address(StackOptions(state_dir=tmp_path, listen=LISTEN), current) == LISTEN
    assert configuration.listen_address(StackOptions(state_dir=tmp_path), current) == HostPort("127.0.0.2", 9)
    assert configuration.listen_address(StackOptions(state_dir=tmp_path), {}) == HostPort("127.0.0.1", 8080)
    with pytest.raises(StackError, match="GATEWAY_BIND_PORT='http': expected a port"):
        configuration.listen_address(StackOptions(state_dir=tmp_path), {"GATEWAY_BIND_PORT": "http"})


def test_services_inherit_settings_of_the_environment_except_managed_ones(tmp_path: Path) -> None:
    environ = {
        "PATH": "/bin",
        "DEFAULT_RPM": "5",
        "DATABASE_URL": "postgresql://elsewhere/x",
        "OLLAMA_BACKENDS": "[]",
        "PYTHONPATH": "/elsewhere",
        "AWS_SECRET_ACCESS_KEY": "s",
    }
    options = StackOptions(state_dir=tmp_path)
    assert configuration.inherited_environment(environ, options) == {
        "PATH": "/bin",
        "DEFAULT_RPM": "5",
        "OLLAMA_BACKENDS": "[]",
    }
    with_backends = StackOptions(state_dir=tmp_path, backends=(("a", "http://a"),))
    assert configuration.inherited_environment(environ, with_backends) == {"PATH": "/bin", "DEFAULT_RPM": "5"}


def test_up_loads_the_same_settings_as_its_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"DATABASE_URL": "postgresql://elsewhere/x", "DEFAULT_RPM": "5"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with open_state(tmp_path / "s") as state:
        options = StackOptions(state_dir=state.root)
        configuration.write_env_file(state, options, LISTEN, STORES)
        settings = configuration.load_settings(state, os.environ, options)
    assert "127.0.0.1:20001" in settings.database_url.get_secret_value()
    assert settings.default_rpm == 5
    assert os.environ["DATABASE_URL"] == "postgresql://elsewhere/x"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:8080", "::1", 8080), ("a.example:0", "a.example", 0)],
)
def test_an_address_is_parsed_and_formatted(text: str, host: str, port: int) -> None:
    assert HostPort.parse(text) == HostPort(host, port)
    assert str(HostPort(host, port)) == text


@pytest.mark.parametrize("text", ["", "8080", ":8080", "::1:8080", "host:", "host:http", "host:65536", "host:-1"])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|65535"):
        HostPort.parse(text)


def test_a_wildcard_address_is_reachable_over_loopback() -> None:
    assert HostPort("0.0.0.0", 1).reachable() == HostPort("127.0.0.1", 1)  # noqa: S104 (nothing is bound)
    assert HostPort("::", 1).reachable() == HostPort("::1", 1)


def test_the_tls_address_is_remembered_until_it_is_turned_off(tmp_path: Path) -> None:
    tls = HostPort("127.0.0.1", 20004)
    with open_state(tmp_path / "s") as state:

        def start(**options: object) -> HostPort | None:
            chosen = StackOptions(state_dir=state.root, **options)  # type: ignore[arg-type]
            address = configuration.tls_address(chosen, env_file.read(state.env_file))
            configuration.write_env_file(state, chosen, LISTEN, STORES, address)
            return address

        assert start() is None
        assert configuration.TLS_VARIABLE not in env_file.read(state.env_file)
        assert start(tls=tls) == start() == tls
        assert start(no_tls=True) is None
        assert start() is None
    with pytest.raises(StackError, match="UP_TLS_LISTEN: 'x' is not HOST:PORT"):
        configuration.stored_tls_address({configuration.TLS_VARIABLE: "x"})


def test_the_playground_stays_on_until_it_is_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_ENABLED", "false")
    with open_state(tmp_path / "s") as state:

        def start(playground: bool | None) -> str | None:
            chosen = StackOptions(state_dir=state.root, playground=playground)
            configuration.write_env_file(state, chosen, LISTEN, STORES)
            assert playground in (None, configuration.load_settings(state, os.environ, chosen).playground_enabled)
            return env_file.read(state.env_file).get("PLAYGROUND_ENABLED")

        assert [start(each) for each in (None, True, None, False, None)] == [None, "true", "true", "false", "false"]


def test_backends_that_a_start_removes_are_named(tmp_path: Path) -> None:
    entries = [{"name": name, "base_url": f"http://{name}"} for name in ("near", "far", "old")]
    current = {"OLLAMA_BACKENDS": json.dumps(entries)}
    chosen = StackOptions(state_dir=tmp_path, backends=(("Near", "http://near"),))
    assert configuration.removed_backends(chosen, current) == ["far", "old"]
    assert configuration.removed_backends(StackOptions(state_dir=tmp_path), current) == []
    assert configuration.removed_backends(chosen, {"OLLAMA_BACKENDS": "{broken"}) == []


def test_other_machines_reach_a_wildcard_address_at_the_address_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.embedded.options.outward_address", lambda: "192.0.2.7")
    assert HostPort("0.0.0.0", 1).outward() == HostPort("192.0.2.7", 1)  # noqa: S104 (nothing is bound)
    assert HostPort("10.0.0.5", 1).outward() == HostPort("10.0.0.5", 1)
    monkeypatch.setattr("ops.embedded.options.outward_address", lambda: None)
    assert HostPort("0.0.0.0", 1).outward() == HostPort("127.0.0.1", 1)  # noqa: S104 (nothing is bound)
