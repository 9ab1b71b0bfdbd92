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


def configuration(port: int, password: str, *, durable: bool = True) -> str:
    """Returns the complete configuration: loopback only, a password, and no eviction.

    With `durable`, every write goes to the append-only file.
    """
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join(
        (
            f"bind {HOST}",
            f"port {port}",
            f'requirepass "{quoted}"',
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


def child(program: Path, state: StateDirectory, port: int, password: str, *, durable: bool = True) -> Child:
    """Describes the server, and writes its configuration file.

    The password is in that file, with mode 0600, because process arguments are public.
    """
    env_file.write(state.redis / _CONFIGURATION, configuration(port, password, durable=durable))

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
