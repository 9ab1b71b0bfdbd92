"""The embedded Redis: its configuration file and its process."""

from __future__ import annotations

from pathlib import Path

import redis.asyncio
from redis.exceptions import RedisError

from ops.embedded.child import Child
from ops.embedded.state import State
from ops.host import env_file

HOST = "127.0.0.1"
_TIMEOUT_S = 1.0
_CONFIGURATION = "redis.conf"


def configuration(port: int, password: str, *, durable: bool = True) -> str:
    """The whole configuration: loopback, a password, every write in the append-only file, nothing ever evicted."""
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


def child(program: Path, state: State, port: int, password: str, *, durable: bool = True) -> Child:
    """The server, and as a side effect its configuration file (0600: process arguments are public)."""
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
        log=state.log("redis"),
        ready=ready,
    )
