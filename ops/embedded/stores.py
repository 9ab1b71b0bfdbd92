"""PostgreSQL and Redis of one state directory: where they are, who they are for, and both of them started."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ops.embedded import ports, postgres, privileges, redis_server
from ops.embedded.errors import StackError
from ops.embedded.state import State, open_state
from ops.embedded.supervisor import Supervisor
from ops.host import binaries, env_file

# How long a port may still be held by the last server of a stack that was killed.
_PORT_PATIENCE_S = 1.0


@dataclass(frozen=True)
class Address:
    """Where a store listens on loopback, and the gateway's password for it."""

    port: int
    password: str


@dataclass(frozen=True)
class Addresses:
    """Both stores, and the settings that say so. `service_password` is that of authz and meter for PostgreSQL."""

    postgres: Address
    redis: Address
    service_password: str

    def env(self) -> dict[str, str]:
        """The lines of the env file."""
        return {
            "DATABASE_URL": self._database_url(postgres.ROLE, self.postgres.password),
            "DATABASE_SERVICE_ROLE": postgres.SERVICE_ROLE,
            "REDIS_URL": f"redis://:{quote(self.redis.password, safe='')}@{redis_server.HOST}:{self.redis.port}/0",
        }

    def service_env(self) -> dict[str, str]:
        """What authz and meter have instead."""
        return {"DATABASE_URL": self._database_url(postgres.SERVICE_ROLE, self.service_password)}

    def _database_url(self, role: str, password: str) -> str:
        login = f"{role}:{quote(password, safe='')}"
        return f"postgresql://{login}@{postgres.HOST}:{self.postgres.port}/{postgres.DATABASE}"


def addresses(state: State) -> Addresses:
    """The stores' addresses of the env file, or new ones for the first start and for a port that is taken."""
    known = env_file.read(state.env_file)
    return Addresses(
        postgres=_address("DATABASE_URL", known, postgres.HOST),
        redis=_address("REDIS_URL", known, redis_server.HOST),
        service_password=state.secret("postgres-service"),
    )


async def start(
    supervisor: Supervisor, state: State, at: Addresses, *, redis_program: Path | None = None, durable: bool = True
) -> None:
    """Starts both stores and makes the gateway's roles and database; raises StackError or ProgramNotFound."""
    redis_child = redis_server.child(
        binaries.redis(redis_program), state, at.redis.port, at.redis.password, durable=durable
    )
    user = privileges.unprivileged_user(state.postgres)
    tree = privileges.reachable_tree(binaries.postgres_tree(), user, state)
    postgres.create_cluster(tree, state, user)
    postgres.forget_ended_server(state)
    await supervisor.start(
        postgres.child(tree, state, user, at.postgres.port, durable=durable),
        redis_child,
    )
    passwords = {postgres.ROLE: at.postgres.password, postgres.SERVICE_ROLE: at.service_password}
    await postgres.provision(state, at.postgres.port, passwords)


@contextlib.asynccontextmanager
async def running(directory: Path, *, durable: bool = True) -> AsyncIterator[dict[str, str]]:
    """Both stores alone, with their state below `directory`, for as long as the context lasts.

    Gives DATABASE_URL (an empty database that its role owns) and REDIS_URL, which stand in `directory/.env` too, and
    the role that `migrate` provides for authz and meter.
    Must be entered in the main thread. Raises StackError or ProgramNotFound.
    """
    with open_state(directory) as state:
        at = addresses(state)
        env_file.update(state.env_file, at.env())
        async with Supervisor(notice=lambda _: None) as supervisor:
            await start(supervisor, state, at, durable=durable)
            yield at.env()


def _address(name: str, known: dict[str, str], host: str) -> Address:
    parts = urlsplit(known.get(name, ""))
    if parts.hostname not in (None, host):
        raise StackError(
            f"{name} names the server {parts.hostname}, but the embedded stack runs its own; "
            f"remove the line, or run the services one by one with `neuronetz-gateway run`"
        )
    port = ports.keep_or_choose(host, parts.port, _PORT_PATIENCE_S)
    return Address(port, unquote(parts.password or "") or secrets.token_urlsafe(32))
