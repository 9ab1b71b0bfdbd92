"""PostgreSQL and Redis of one state directory: their addresses, their logins and their start."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ops.embedded import ports, postgres, privileges, redis_server
from ops.embedded.errors import StackError
from ops.embedded.state import StateDirectory, open_state
from ops.embedded.supervisor import Supervisor
from ops.host import binaries, env_file

# How long the server of a killed stack may still hold a port.
_PORT_WAIT_S = 1.0


@dataclass(frozen=True)
class Address:
    """The loopback port of a store, and the gateway's password for it."""

    port: int
    password: str


@dataclass(frozen=True)
class Addresses:
    """The addresses of both stores.

    `service_password` is the password of authz and meter for PostgreSQL, and `redis_socket` the socket by which they
    reach Redis.
    """

    postgres: Address
    redis: Address
    service_password: str
    redis_socket: Path

    def env(self) -> dict[str, str]:
        """Returns the settings of the env file."""
        return {
            "DATABASE_URL": self._database_url(postgres.ROLE, self.postgres.password),
            "DATABASE_SERVICE_ROLE": postgres.SERVICE_ROLE,
            "REDIS_URL": f"redis://:{quote(self.redis.password, safe='')}@{redis_server.HOST}:{self.redis.port}/0",
        }

    def service_env(self) -> dict[str, str]:
        """Returns the settings that differ for authz and meter."""
        return {
            "DATABASE_URL": self._database_url(postgres.SERVICE_ROLE, self.service_password),
            "REDIS_URL": f"unix://:{quote(self.redis.password, safe='')}@{quote(str(self.redis_socket))}?db=0",
        }

    def _database_url(self, role: str, password: str) -> str:
        login = f"{role}:{quote(password, safe='')}"
        return f"postgresql://{login}@{postgres.HOST}:{self.postgres.port}/{postgres.DATABASE}"


def choose_addresses(state: StateDirectory) -> Addresses:
    """Returns the addresses in the env file, or new ones on the first start and for a port in use.

    Raises StackError when the env file names a store on another host.
    """
    current = env_file.read(state.env_file)
    return Addresses(
        postgres=_address("DATABASE_URL", current, postgres.HOST),
        redis=_address("REDIS_URL", current, redis_server.HOST),
        service_password=state.secret("postgres-service"),
        redis_socket=redis_server.socket_path(state),
    )


async def start(
    supervisor: Supervisor,
    state: StateDirectory,
    addresses: Addresses,
    *,
    redis_program: Path | None = None,
    durable: bool = True,
) -> None:
    """Starts both stores and creates the gateway's roles and database. Raises StackError or ProgramNotFound."""
    redis_child = redis_server.child(
        binaries.redis(redis_program), state, addresses.redis.port, addresses.redis.password, durable=durable
    )
    user = privileges.unprivileged_user(state.postgres)
    tree = privileges.executable_tree(binaries.postgres_tree(), user, state)
    postgres.create_cluster(tree, state, user)
    postgres.remove_stale_lock_file(state)
    await supervisor.start(
        postgres.child(tree, state, user, addresses.postgres.port, durable=durable),
        redis_child,
    )
    passwords = {postgres.ROLE: addresses.postgres.password, postgres.SERVICE_ROLE: addresses.service_password}
    await postgres.provision(state, addresses.postgres.port, passwords)


@contextlib.asynccontextmanager
async def running(directory: Path, *, durable: bool = True) -> AsyncIterator[dict[str, str]]:
    """Runs only the stores, with their state in `directory`, until the context ends.

    Yields DATABASE_URL (an empty database that its role owns), REDIS_URL, and DATABASE_SERVICE_ROLE, the role that
    `migrate` provides for authz and meter. `directory/.env` has the same settings. Enter it in the main thread. Raises
    StackError or ProgramNotFound.
    """
    with open_state(directory) as state:
        addresses = choose_addresses(state)
        env_file.update(state.env_file, addresses.env())
        async with Supervisor(notice=lambda _: None) as supervisor:
            await start(supervisor, state, addresses, durable=durable)
            yield addresses.env()


def _address(name: str, current: dict[str, str], host: str) -> Address:
    parts = urlsplit(current.get(name, ""))
    if parts.hostname not in (None, host):
        raise StackError(
            f"{name} names the server {parts.hostname}, but the embedded stack runs its own server; "
            f"remove the line, or run the services one by one with `neuronetz-gateway run`"
        )
    port = ports.keep_or_choose(host, parts.port, _PORT_WAIT_S)
    return Address(port, unquote(parts.password or "") or secrets.token_urlsafe(32))
