from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import SecretStr

from gateway.settings import Settings, load
from ops.compose import prepare

VOLUMES = ("gateway", "service", "control", "postgres", "redis", "redis-data")


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """The empty volumes of all services."""
    for name in VOLUMES:
        (tmp_path / "volumes" / name).mkdir(parents=True)
    return tmp_path / "volumes"


def run(volumes: Path, text: str) -> None:
    source = volumes.parent / "env"
    source.write_text(text)
    # All services run as the user of these tests.
    uids = prepare.Uids(gateway=os.geteuid(), postgres=os.geteuid())
    prepare.prepare(source, volumes, "gateway", "gateway", uids)


def settings(volumes: Path, service: str) -> Settings:
    return load(volumes / service / "gateway.env")


def test_passwords_are_generated_once_and_kept(volumes: Path) -> None:
    run(volumes, "")
    first = {path: path.read_text() for path in volumes.rglob("*") if path.is_file()}
    run(volumes, "")
    assert {path: path.read_text() for path in volumes.rglob("*") if path.is_file()} == first
    made = {
        (volumes / name).read_text() for name in ("postgres/password", "redis/password", "service/postgres-password")
    }
    assert len(made) == 3
    assert all(len(password) >= 32 for password in made)


def test_files_and_volumes_are_accessible_to_their_owners_only(volumes: Path) -> None:
    run(volumes, "")
    assert {stat.S_IMODE(path.stat().st_mode) for path in volumes.rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE((volumes / name).stat().st_mode) for name in VOLUMES} == {0o700}


@pytest.mark.parametrize("password", ["simple", "p@ss/w:rd?#%", "with space", "d$ollar"])
def test_postgres_and_the_services_get_the_chosen_password(volumes: Path, password: str) -> None:
    run(volumes, f"POSTGRES_PASSWORD='{password}'\n")
    assert (volumes / "postgres/password").read_text() == password
    url = settings(volumes, "gateway").database_url.get_secret_value()
    assert url.startswith("postgresql://gateway:")
    assert url.endswith("@postgres:5432/gateway")
    assert password == unquote(urlsplit(url).password or "")


def test_settings_of_the_operator_are_passed_on_except_managed_ones(volumes: Path) -> None:
    run(volumes, "DEFAULT_RPM=7\nDATABASE_URL=postgresql://elsewhere/db\nHTTP_PORT=81\nUNKNOWN=x\n")
    assert settings(volumes, "control").default_rpm == 7
    text = (volumes / "control/gateway.env").read_text()
    assert "elsewhere" not in text
    assert "HTTP_PORT" not in text
    assert "UNKNOWN" not in text


def test_a_changed_setting_changes_no_password(volumes: Path) -> None:
    run(volumes, "DEFAULT_RPM=7\n")
    password = (volumes / "redis/password").read_text()
    run(volumes, "DEFAULT_RPM=8\n")
    assert settings(volumes, "gateway").default_rpm == 8
    assert (volumes / "redis/password").read_text() == password
    assert password in settings(volumes, "service").redis_url.get_secret_value()


def test_authz_and_meter_have_only_the_login_that_migrate_creates(volumes: Path) -> None:
    run(
        volumes,
        "POSTGRES_PASSWORD=0wner\nDATABASE_LISTEN_URL=postgresql://gateway:0wner@postgres/gateway\nDEFAULT_RPM=7\n",
    )
    login = urlsplit(settings(volumes, "service").database_url.get_secret_value())
    migrate = settings(volumes, "gateway")
    assert migrate.database_service_password is not None
    made = (migrate.database_service_role, migrate.database_service_password.get_secret_value())
    assert (login.username, login.password) == made == (prepare.SERVICE_ROLE, made[1])
    assert settings(volumes, "service").default_rpm == 7
    assert all("0wner" not in path.read_text() for path in (volumes / "service").iterdir())
    control = settings(volumes, "control")
    assert (control.database_service_role, control.database_service_password) == (prepare.SERVICE_ROLE, None)
    for owner in (control, migrate):
        assert urlsplit(owner.database_url.get_secret_value()).username == "gateway"


def test_only_control_gets_the_tokens_of_backends(volumes: Path) -> None:
    backends = json.dumps(
        [{"name": "far", "base_url": "https://far.example", "auth_token": "s3cret", "auth_scheme": "Key"}]
    )
    run(volumes, f"OLLAMA_BACKENDS='{backends}'\nOLLAMA_AUTH_TOKEN=other-s3cret\n")
    assert [name for name in ("gateway", "service") if "s3cret" in (volumes / name / "gateway.env").read_text()] == []
    (seen,) = settings(volumes, "service").backends
    assert (seen.name, seen.auth_scheme, seen.auth_token) == ("far", "Key", None)
    (whole,) = settings(volumes, "control").backends
    assert whole.auth_token == SecretStr("s3cret")


def test_an_invalid_list_of_backends_reaches_control_only(volumes: Path) -> None:
    run(volumes, 'OLLAMA_BACKENDS=\'[{"auth_token":"s3cret"\'\n')
    assert [name for name in ("gateway", "service") if "s3cret" in (volumes / name / "gateway.env").read_text()] == []
    assert "s3cret" in (volumes / "control/gateway.env").read_text()
