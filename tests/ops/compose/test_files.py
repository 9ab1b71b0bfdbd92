"""The rules that compose.yaml, its overlays and the Dockerfile follow, checked without a Docker engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from tests.yaml_text import load_yaml

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = load_yaml((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OVERLAYS = {path.name: load_yaml(path.read_text()) for path in sorted(ROOT.glob("compose.*.yaml"))}
ONE_OFF = {"prepare", "migrate", "pull"}
FILES = [ROOT / "compose.yaml", *(ROOT / name for name in OVERLAYS)]
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#"
)
# Read from the env file by ops/compose/prepare.py only, so that no container has it in its environment.
PREPARE_ONLY = {"POSTGRES_PASSWORD"}

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-+?])([^${}]*))?")


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "caddy"])
def test_only_caddy_is_published(name: str) -> None:
    assert "ports" not in SERVICES[name]
    assert SERVICES[name].get("network_mode") != "host"
    assert [overlay for overlay in OVERLAYS if "ports" in OVERLAYS[overlay]["services"].get(name, {})] == []


def test_only_the_network_of_caddy_and_of_model_downloads_is_not_internal() -> None:
    outward = {name for name, network in COMPOSE["networks"].items() if not network.get("internal")}
    assert outward == {"public"}
    assert {name for name, service in SERVICES.items() if outward & set(service.get("networks", ()))} == {
        "caddy",
        "pull",
    }


def test_only_envoy_and_control_share_a_network_with_ollama() -> None:
    networks = set(SERVICES["ollama"]["networks"])
    assert {name for name, service in SERVICES.items() if networks & set(service.get("networks", ()))} == {
        "ollama", "envoy", "control",
    }  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert service["restart"] == ("no" if name in ONE_OFF else "unless-stopped")
    assert name in ONE_OFF or service["healthcheck"]["test"]


def test_only_prepare_and_caddy_have_added_capabilities() -> None:
    assert {name: service["cap_add"] for name, service in SERVICES.items() if "cap_add" in service} == {
        "prepare": ["CHOWN", "DAC_OVERRIDE", "FOWNER"],
        "caddy": ["NET_BIND_SERVICE"],
    }


def test_only_prepare_and_ollama_run_as_root() -> None:
    assert {name for name, service in SERVICES.items() if service.get("user", "0").startswith("0")} == {
        "prepare", "ollama", "pull",
    }  # fmt: skip
    assert SERVICES["prepare"]["network_mode"] == "none"


def test_a_service_waits_until_its_dependencies_are_ready() -> None:
    for name, service in SERVICES.items():
        for needed, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONE_OFF else "service_healthy"
            assert condition == {"condition": wanted}, (name, needed)


def test_images_have_a_pinned_version_and_can_be_replaced() -> None:
    for name, service in SERVICES.items():
        image = _VARIABLE.fullmatch(service["image"].rstrip("}"))
        assert image is not None, name
        default = image[3]
        assert re.search(r":v?\d|:local$", default), default
        assert "latest" not in default


def test_no_secret_is_in_an_environment() -> None:
    secret = re.compile(r"PASSWORD(?!_FILE)|TOKEN|SECRET|DATABASE_URL|REDIS_URL|OLLAMA_BACKENDS")
    for document in (COMPOSE, *OVERLAYS.values()):
        for name, service in document["services"].items():
            environment = service.get("environment") or {}
            assert [each for each in environment if secret.search(each)] == [], name
            assert "env_file" not in service, name


def test_envoys_admin_interface_is_a_socket_shared_with_control_only() -> None:
    assert SERVICES["envoy"].get("environment") is None
    assert SERVICES["control"]["environment"]["ENVOY_ADMIN_LISTEN"].startswith("unix:/run/envoy-admin/")
    shared = {name for name, service in SERVICES.items() if "envoy-admin:" in str(service.get("volumes"))}
    assert shared == {"control", "envoy"}


def test_envoys_files_are_in_memory_and_read_only_for_envoy() -> None:
    assert COMPOSE["volumes"]["envoy-files"]["driver_opts"]["type"] == "tmpfs"
    assert "envoy-files:/run/envoy:ro" in SERVICES["envoy"]["volumes"]
    assert SERVICES["envoy"]["user"] == SERVICES["control"]["user"]


def test_the_bundled_ollama_uses_no_cloud_models() -> None:
    assert SERVICES["ollama"]["environment"]["OLLAMA_NO_CLOUD"] == "1"
    assert SERVICES["pull"]["environment"]["OLLAMA_NO_CLOUD"] == "1"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_in_the_example_with_the_same_default(path: Path) -> None:
    for name, kind, default in _VARIABLE.findall(path.read_text()):
        if name in {"COMPOSE_PROJECT_NAME", "GATEWAY_ENV_FILE"}:
            continue
        assert name in EXAMPLE, name
        if kind == "-" and default:
            assert EXAMPLE[name] == default, name


def test_every_line_of_the_example_is_used() -> None:
    read = {name for path in FILES for name, _, _ in _VARIABLE.findall(path.read_text())}
    assert set(EXAMPLE) <= {name.upper() for name in Settings.model_fields} | read | PREPARE_ONLY


def test_the_final_image_has_no_pip_and_no_compiler_and_does_not_run_as_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"--mount|<<|# *syntax", dockerfile)
    build, final = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]
    assert "--require-hashes" in build
    installs = [line for line in final.splitlines() if re.search(r"pip install|apt-get|apk|gcc|build-essential", line)]
    assert installs == []
    assert "-name pip " in final
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert final.index("USER 10001") < final.index("ENTRYPOINT")


def test_the_build_context_has_exactly_the_copied_files() -> None:
    first, *named = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert first == "*"
    copied = {
        name
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert {line.removeprefix("!") for line in named if line.startswith("!")} == copied


def test_the_image_has_the_tested_versions() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[A-Za-z0-9_.\[\]-]+==[^ \\]+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements-image.lock") < pins("requirements.lock")
    assert pins("requirements-build.lock") < pins("requirements.lock")
