"""The first step of every `docker compose up`: gives each service the secrets and settings that it needs, no others.

Compose mounts a secret's file with its owner and mode on the host, which a service with a separate uid cannot read. A
short-lived container as root, without a network, therefore reads the operator's env file and writes a copy for each
service to a volume of that service. Passwords that the operator does not choose are generated once and kept. A further
run applies the changes of the env file and changes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gateway.settings import Settings
from ops.host import env_file

REDIS_MEMORY_MIB = 384

# The login of authz and meter at PostgreSQL, created by `migrate`.
SERVICE_ROLE = "gateway_service"

# Compose runs these servers itself, so it sets their addresses and logins.
_MANAGED = {"DATABASE_URL", "DATABASE_SERVICE_ROLE", "DATABASE_SERVICE_PASSWORD", "REDIS_URL"}
# Further logins that an operator sets are those of the owner. The services do not get them.
_OWNER_ONLY = {"DATABASE_LISTEN_URL", "DATABASE_REPORT_URL"}


@dataclass(frozen=True)
class Uids:
    """The uids that the services run as: those of the gateway's images, and `postgres` in the official image."""

    gateway: int = 10001
    postgres: int = 999


@dataclass(frozen=True)
class Passwords:
    """The passwords of PostgreSQL's owner, of the role of authz and meter, and of Redis."""

    postgres: str
    service: str
    redis: str


@dataclass(frozen=True)
class ServiceFile:
    """A file for one service. `path` is relative to the directory of all volumes."""

    path: str
    uid: int
    text: str


def service_files(
    operator_settings: Mapping[str, str], passwords: Passwords, user: str, database: str, uids: Uids
) -> list[ServiceFile]:
    """Returns the files that follow from the operator's env file. Pure."""
    names = {name.upper() for name in Settings.model_fields} - _MANAGED
    settings = {name: value for name, value in operator_settings.items() if name.upper() in names}
    settings["REDIS_URL"] = f"redis://:{quote(passwords.redis, safe='')}@redis:6379/0"
    tokenless = without_backend_tokens(settings)
    service = {name: value for name, value in tokenless.items() if name.upper() not in _OWNER_ONLY}
    service["DATABASE_URL"] = _database_url(SERVICE_ROLE, passwords.service, database)
    owner = {
        "DATABASE_URL": _database_url(user, passwords.postgres, database),
        "DATABASE_SERVICE_ROLE": SERVICE_ROLE,
    }
    control = {**settings, **owner}
    migrate = {**tokenless, **owner, "DATABASE_SERVICE_PASSWORD": passwords.service}
    return [
        # Workers of an earlier version, which has no service role, still read this file while they are replaced.
        ServiceFile("gateway/gateway.env", uids.gateway, _lines(migrate)),
        ServiceFile("service/gateway.env", uids.gateway, _lines(service)),
        ServiceFile("service/postgres-password", uids.gateway, passwords.service),
        ServiceFile("control/gateway.env", uids.gateway, _lines(control)),
        ServiceFile("postgres/password", uids.postgres, passwords.postgres),
        ServiceFile("redis/password", uids.gateway, passwords.redis),
        ServiceFile("redis/redis.conf", uids.gateway, _redis_conf(passwords.redis)),
    ]


def without_backend_tokens(settings: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings for authz and meter, which never connect to a backend.

    An OLLAMA_BACKENDS that cannot be parsed is dropped completely.
    """
    kept = {name: value for name, value in settings.items() if name.upper() != "OLLAMA_AUTH_TOKEN"}
    for name in [name for name in kept if name.upper() == "OLLAMA_BACKENDS"]:
        try:
            entries = json.loads(kept[name] or "[]")
            backends = [{key: value for key, value in each.items() if key != "auth_token"} for each in entries]
        except (ValueError, AttributeError, TypeError):
            del kept[name]
        else:
            kept[name] = json.dumps(backends) if backends else ""
    return kept


def _database_url(user: str, password: str, database: str) -> str:
    return f"postgresql://{quote(user)}:{quote(password, safe='')}@postgres:5432/{database}"


def _redis_conf(password: str) -> str:
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'requirepass "{quoted}"\n'
        # Counters are never evicted, and settled usage survives a restart except for the last second.
        f"maxmemory {REDIS_MEMORY_MIB}mb\nmaxmemory-policy noeviction\n"
        "appendonly yes\nappendfsync everysec\ndir /data\n"
    )


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{env_file.line(name, value)}\n" for name, value in settings.items())


def _password(chosen: str | None, stored: Path) -> str:
    """Returns the operator's choice, else the stored password, else a new one."""
    return chosen or (stored.read_text() if stored.exists() else secrets.token_urlsafe(32))


def _write(volumes: Path, file: ServiceFile) -> None:
    path = volumes / file.path
    if path.exists() and path.read_text() == file.text:
        return
    env_file.write(path, file.text)
    os.chown(path, file.uid, file.uid)


def prepare(source: Path, volumes: Path, user: str, database: str, uids: Uids) -> None:
    """Writes the files with mode 0600 and gives each file and each volume to its service."""
    operator_settings = env_file.read(source)
    passwords = Passwords(
        postgres=_password(operator_settings.get("POSTGRES_PASSWORD"), volumes / "postgres/password"),
        service=_password(None, volumes / "service/postgres-password"),
        redis=_password(None, volumes / "redis/password"),
    )
    for file in service_files(operator_settings, passwords, user, database, uids):
        _write(volumes, file)
    for volume in volumes.iterdir():
        uid = uids.postgres if volume.name == "postgres" else uids.gateway
        volume.chmod(0o700)
        os.chown(volume, uid, uid)


def main() -> None:
    """`python -m ops.compose.prepare ENV_FILE VOLUMES --postgres-user U --postgres-db D`."""
    parser = argparse.ArgumentParser("python -m ops.compose.prepare", description=__doc__)
    parser.add_argument("env_file", type=Path)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("--postgres-user", required=True)
    parser.add_argument("--postgres-db", required=True)
    arguments = parser.parse_args()
    prepare(arguments.env_file, arguments.volumes, arguments.postgres_user, arguments.postgres_db, Uids())


if __name__ == "__main__":
    main()
