"""The first step of every `docker compose up`: hands each service the secrets and settings it needs, and no other.

Compose binds a secret's file with the owner and mode it has on the host, which a service under a uid of its own cannot
read. So one short-lived root, without a network, reads the operator's env file and places a copy for each service in a
volume of that service's own. Passwords that the operator does not choose are made once and kept. Run again, it changes
what the env file changed and nothing else.
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

GATEWAY_UID = 10001
# The uid of the account `postgres` in the official image.
POSTGRES_UID = 999
REDIS_MEMORY_MIB = 384

# What authz and meter log in to PostgreSQL as; `migrate` makes it.
SERVICE_ROLE = "gateway_service"

# Compose runs these servers itself, so it decides how they are reached, and as whom.
_DECIDED = {"DATABASE_URL", "DATABASE_SERVICE_ROLE", "DATABASE_SERVICE_PASSWORD", "REDIS_URL"}
# Logins that an operator adds are those of the owner, and not for the services.
_OWNERS = {"DATABASE_LISTEN_URL", "DATABASE_REPORT_URL"}


@dataclass(frozen=True)
class Passwords:
    """Of PostgreSQL's owner, of the role that authz and meter log in as, and of Redis."""

    postgres: str
    service: str
    redis: str


@dataclass(frozen=True)
class Placed:
    """One file for one service: `path` below the directory of all volumes."""

    path: str
    uid: int
    text: str


def placements(given: Mapping[str, str], passwords: Passwords, user: str, database: str) -> list[Placed]:
    """The files that follow from the operator's env file. Pure."""
    names = {name.upper() for name in Settings.model_fields} - _DECIDED
    settings = {name: value for name, value in given.items() if name.upper() in names}
    settings["REDIS_URL"] = f"redis://:{quote(passwords.redis, safe='')}@redis:6379/0"
    service = {name: value for name, value in without_backend_tokens(settings).items() if name.upper() not in _OWNERS}
    service["DATABASE_URL"] = _database_url(SERVICE_ROLE, passwords.service, database)
    settings["DATABASE_URL"] = _database_url(user, passwords.postgres, database)
    settings["DATABASE_SERVICE_ROLE"] = SERVICE_ROLE
    migrate = {**without_backend_tokens(settings), "DATABASE_SERVICE_PASSWORD": passwords.service}
    return [
        # Workers of an earlier version, which know no service role, still read this one while they are replaced.
        Placed("gateway/gateway.env", GATEWAY_UID, _lines(migrate)),
        Placed("service/gateway.env", GATEWAY_UID, _lines(service)),
        Placed("service/postgres-password", GATEWAY_UID, passwords.service),
        Placed("control/gateway.env", GATEWAY_UID, _lines(settings)),
        Placed("postgres/password", POSTGRES_UID, passwords.postgres),
        Placed("redis/password", GATEWAY_UID, passwords.redis),
        Placed("redis/redis.conf", GATEWAY_UID, _redis_conf(passwords.redis)),
    ]


def _database_url(user: str, password: str, database: str) -> str:
    return f"postgresql://{quote(user)}:{quote(password, safe='')}@postgres:5432/{database}"


def without_backend_tokens(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings of authz and meter, which never speak to a backend. A list that cannot be read is left out whole."""
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


def _redis_conf(password: str) -> str:
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'requirepass "{quoted}"\n'
        # Counters are never dropped silently, and what was settled survives a restart up to the last second.
        f"maxmemory {REDIS_MEMORY_MIB}mb\nmaxmemory-policy noeviction\n"
        "appendonly yes\nappendfsync everysec\ndir /data\n"
    )


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{env_file.line(name, value)}\n" for name, value in settings.items())


def _password(chosen: str | None, kept: Path) -> str:
    """The operator's choice, else the one made before, else a new one."""
    return chosen or (kept.read_text() if kept.exists() else secrets.token_urlsafe(32))


def _place(volumes: Path, placed: Placed) -> None:
    path = volumes / placed.path
    if path.exists() and path.read_text() == placed.text:
        return
    env_file.write(path, placed.text)
    os.chown(path, placed.uid, placed.uid)


def prepare(source: Path, volumes: Path, user: str, database: str) -> None:
    """Writes the files (0600, each its service's own) and gives every volume to its service."""
    given = env_file.read(source)
    passwords = Passwords(
        postgres=_password(given.get("POSTGRES_PASSWORD"), volumes / "postgres/password"),
        service=_password(None, volumes / "service/postgres-password"),
        redis=_password(None, volumes / "redis/password"),
    )
    for placed in placements(given, passwords, user, database):
        _place(volumes, placed)
    for volume in volumes.iterdir():
        uid = POSTGRES_UID if volume.name == "postgres" else GATEWAY_UID
        volume.chmod(0o700)
        os.chown(volume, uid, uid)


def main() -> None:
    """`python -m ops.compose.prepare ENV_FILE VOLUMES --postgres-user U --postgres-db D`."""
    parser = argparse.ArgumentParser("python -m ops.compose.prepare", description=__doc__)
    parser.add_argument("env_file", type=Path)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("--postgres-user", required=True)
    parser.add_argument("--postgres-db", required=True)
    given = parser.parse_args()
    prepare(given.env_file, given.volumes, given.postgres_user, given.postgres_db)


if __name__ == "__main__":
    main()
