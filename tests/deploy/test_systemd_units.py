"""The systemd units: their confinement, and their agreement with the settings and with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.settings import Settings
from ops.cli import PANELS
from ops.data_plane import envoy_files

UNITS = Path(__file__).parents[2] / "deploy/systemd"
PREFIX = "neuronetz-gateway-"
DROP_IN = UNITS / f"{PREFIX}.service.d/10-confined.conf"
SERVICES = sorted(UNITS.glob("*.service"), key=str)
EXPOSURE_MAX = 2.0
# Required of every unit, also on a machine without systemd-analyze.
CONFINED = {
    "DevicePolicy": "closed", "KeyringMode": "private", "LockPersonality": "yes", "NoNewPrivileges": "yes",
    "PrivateDevices": "yes", "PrivateTmp": "yes", "ProcSubset": "pid", "ProtectClock": "yes",
    "ProtectControlGroups": "yes", "ProtectHome": "yes", "ProtectHostname": "yes", "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes", "ProtectProc": "invisible",
    "ProtectSystem": "strict", "RemoveIPC": "yes", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes", "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native", "UMask": "0077", "User": "neuronetz-gateway",
}  # fmt: skip

Directives = dict[str, list[str]]


def read(*files: Path) -> Directives:
    """Reads every directive with its values in order. No two sections of our units share a directive."""
    found: Directives = defaultdict(list)
    for file in files:
        for line in file.read_text().splitlines():
            if line and line[0] not in "#[":
                name, equals, value = line.partition("=")
                assert equals, f"{file.name}: {line}"
                found[name].append(value)
    return found


def service(path: Path) -> Directives:
    return read(path, DROP_IN)


def environment(path: Path, instance: str = "0") -> dict[str, str]:
    pairs = [pair for value in service(path)["Environment"] for pair in value.split()]
    return {name: value.replace("%i", instance) for name, _, value in (pair.partition("=") for pair in pairs)}


def own_settings(path: Path, instance: str = "0") -> Settings:
    """Returns the settings that a unit sets itself, without its env file."""
    return Settings.model_validate({name.lower(): value for name, value in environment(path, instance).items()})


def unit(name: str) -> Path:
    return UNITS / f"{PREFIX}{name}.service"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_every_unit_is_confined(path: Path) -> None:
    directives = service(path)
    assert {name: directives[name] for name in CONFINED} == {name: [value] for name, value in CONFINED.items()}
    assert directives["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    caddy, compiles = path.stem.endswith("caddy"), path.stem.endswith(("envoy", "control"))
    assert directives["CapabilityBoundingSet"] == (["CAP_NET_BIND_SERVICE"] if caddy else [""])
    assert directives["AmbientCapabilities"] == (["CAP_NET_BIND_SERVICE"] if caddy else [])
    assert directives["MemoryDenyWriteExecute"] == (["no"] if compiles else ["yes"])
    if program := shutil.which("systemd-analyze"):
        assert _exposure(program, path) <= EXPOSURE_MAX


def _exposure(program: str, path: Path) -> float:
    name = path.name.replace("@.", "@0.")
    report = subprocess.run(
        [program, "security", "--offline=true", "--no-pager", name],
        env={"SYSTEMD_UNIT_PATH": str(UNITS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", report.stdout)
    assert found, report.stdout + report.stderr
    return float(found[1])


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_no_unit_sets_a_directive_of_the_drop_in(path: Path) -> None:
    shared = read(path).keys() & read(DROP_IN).keys()
    assert shared <= {"Environment"}
    names = [pair.partition("=")[0] for value in service(path)["Environment"] for pair in value.split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_units_run_our_commands_with_settings_as_environment(path: Path) -> None:
    commands = {name for panel in PANELS.values() for name in panel}
    for line in (line for name in ("ExecStart", "ExecStop") for line in service(path)[name]):
        # With a leading hyphen, systemd ignores a failure of the command.
        program, *arguments = line.removeprefix("-").split()
        assert program.startswith("/opt/neuronetz-gateway/bin/")
        if program.endswith("/neuronetz-gateway"):
            assert arguments[0] in commands
            assert environment(path).keys() <= {name.upper() for name in Settings.model_fields} | {"GATEWAY_ENV_FILE"}
            own_settings(path)


def test_exactly_the_units_that_read_the_env_file_get_it_as_a_credential() -> None:
    for path in SERVICES:
        reads = any("neuronetz-gateway run" in line or "migrate" in line for line in service(path)["ExecStart"])
        assert service(path)["LoadCredential"] == (["gateway.env:/etc/neuronetz-gateway/gateway.env"] if reads else [])
        assert environment(path).get("GATEWAY_ENV_FILE") == ("%d/gateway.env" if reads else None)


def test_the_workers_listen_on_the_targets_of_envoy(tmp_path: Path) -> None:
    control = own_settings(unit("control"))
    started = {name for line in read(UNITS / "neuronetz-gateway.target")["Wants"] for name in line.split()}
    for kind, targets in (("authz", control.authz_grpc_targets), ("meter", control.meter_grpc_targets)):
        instances = [name.partition("@")[2].removesuffix(".service") for name in started if f"-{kind}@" in name]
        assert len(instances) == 2
        listening = {getattr(own_settings(unit(f"{kind}@"), each), f"{kind}_grpc_listen") for each in instances}
        assert listening == set(targets)
    assert {own_settings(unit("authz@"), each).authz_http_listen for each in "01"} == set(control.authz_http_targets)
    assert started - {f"{PREFIX}{kind}@{n}.service" for kind in ("authz", "meter") for n in "01"} == {
        f"{PREFIX}{name}.service" for name in ("control", "envoy", "caddy")
    }
    (command,) = service(unit("envoy"))["ExecStart"]
    assert f"--config-path {control.envoy_config_dir}/bootstrap.yaml" in command
    assert "bootstrap.yaml" in envoy_files.render(control, tmp_path)


def test_a_worker_counts_as_started_once_its_socket_exists() -> None:
    for kind, setting in (("authz", "authz_grpc_listen"), ("meter", "meter_grpc_listen")):
        (waits,) = service(unit(f"{kind}@"))["ExecStartPost"]
        (removes,) = service(unit(f"{kind}@"))["ExecStopPost"]
        path = getattr(own_settings(unit(f"{kind}@")), setting).removeprefix("unix:")
        for line in (waits, removes):
            assert path in line.replace("%i", "0").replace("'", " ").replace(";", " ").split()


def test_the_stop_timeout_covers_the_grace_period_of_requests() -> None:
    needed_s = Settings().gateway_shutdown_grace_s + 10
    for name in ("authz@", "meter@", "control", "envoy", "caddy"):
        assert int(service(unit(name))["TimeoutStopSec"][0]) >= needed_s


def test_a_migration_restarts_no_worker() -> None:
    for path in SERVICES:
        assert not any("migrate" in line for name in ("Requires", "BindsTo") for line in service(path)[name])
    assert any("migrate" in line for line in service(unit("authz@"))["Wants"])
