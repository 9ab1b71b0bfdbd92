"""The embedded Redis: its configuration file and its process."""

from __future__ import annotations

from pathlib import Path

import redis.asyncio
from redis.exceptions import RedisError

from ops.embedded.child import Child
from ops.embedded.state import StateDirectory
from ops.host import env_file

HOST = "127.0.0.1"
_TIMEOUT_S = 1.0
_CONFIGURATION = "redis.conf"


def socket_path(state: StateDirectory) -> Path:
    """Returns the unix socket by which authz and meter reach the server: a call costs less than over loopback."""
    return state.sockets / "redis.sock"


def configuration(port: int, password: str, socket: Path, *, durable: bool = True) -> str:
    """Returns the complete configuration: loopback and a unix socket only, a password, and no eviction.

    With `durable`, every write goes to the append-only file.
    """
    return "\n".join(
        (
            f"bind {HOST}",
            f"port {port}",
            f"unixsocket {_quoted(str(socket))}",
            "unixsocketperm 600",
            f"requirepass {_quoted(password)}",
            "protected-mode yes",
            "daemonize no",
            "dir ./",
            'save ""',
            f"appendonly {'yes' if durable else 'no'}",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            "",
        )
    )


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def child(program: Path, state: StateDirectory, port: int, password: str, *, durable: bool = True) -> Child:
    """Describes the server, and writes its configuration file.

    The password is in that file, with mode 0600, because process arguments are public.
    """
    text = configuration(port, password, socket_path(state), durable=durable)
    env_file.write(state.redis / _CONFIGURATION, text)

    async def ready() -> bool:
        client = redis.asyncio.Redis(
            host=HOST, port=port, password=password, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    return Child(
        name="redis",
        argv=(str(program), _CONFIGURATION),
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        cwd=state.redis,
        log=state.log_file("redis"),
        ready=ready,
    )
