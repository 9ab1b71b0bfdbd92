"""Signs a checkpoint of the audit chain every interval and delivers it to a file or a command outside the database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from gateway.errors import GatewayError, StoreUnavailable
from gateway.loops import Backoff, forever
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.checkpoint import checkpoint, key_file
from ops.checkpoint.signed_note import NoteRefused, PrivateKey
from ops.control.metrics import CHECKPOINT_FAILURES
from ops.database.audit_chain import AuditChain, ChainHead
from ops.database.checkpoints import CheckpointStore

log = structlog.get_logger()

COMMAND_DEADLINE_S = 30.0
# Longer than a delivery takes, so that two processes never deliver at once.
CLAIM = timedelta(seconds=2 * COMMAND_DEADLINE_S)
POLL_S = 5.0
_BACKOFF = Backoff(first_s=5.0, max_s=300.0)
_ERROR_CHARACTERS_MAX = 200


class CheckpointFailed(GatewayError):
    """The checkpoint was not delivered."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where checkpoints go: a file that is appended to, a command that reads them on its standard input, or both."""

    file: Path | None = None
    command: Sequence[str] = ()
    deadline_s: float = COMMAND_DEADLINE_S

    async def deliver(self, note: str) -> None:
        """Returns when the file is on the disk and the command has ended with 0. Raises CheckpointFailed."""
        if self.command:
            await self._run(note)
        if self.file:
            try:
                await asyncio.to_thread(_append, self.file, note)
            except OSError as error:
                raise CheckpointFailed(f"{self.file}: {error.strerror}") from None

    async def _run(self, note: str) -> None:
        name = self.command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command, stdin=PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=PIPE, start_new_session=True
            )
        except OSError as error:
            raise CheckpointFailed(f"{name}: {error.strerror}") from None
        try:
            async with asyncio.timeout(self.deadline_s):
                _, errors = await process.communicate(note.encode())
        except TimeoutError:
            raise CheckpointFailed(f"{name} did not end within {self.deadline_s:g} s") from None
        finally:
            # The command, and what it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            reason = errors.decode(errors="replace").strip()[-_ERROR_CHARACTERS_MAX:]
            raise CheckpointFailed(f"{name} ended with {process.returncode}: {reason}")


class Checkpoints:
    """Any number of processes may run it; one of them delivers each checkpoint."""

    def __init__(self, database: Database, key: PrivateKey, destination: Destination, interval_s: float) -> None:
        self._chain = AuditChain(database)
        self._store = CheckpointStore(database)
        self._key = key
        self._destination = destination
        self._interval = timedelta(seconds=interval_s)
        self._poll_s = min(POLL_S, interval_s)

    @classmethod
    def of(cls, settings: Settings, database: Database) -> Checkpoints | None:
        """The job of the settings, None without a key. Raises SettingsError and NoteRefused for an unusable key."""
        if settings.checkpoint_key_file is None:
            return None
        destination = Destination(settings.checkpoint_file, shlex.split(settings.checkpoint_command))
        key = key_file.read(settings.checkpoint_key_file)
        return cls(database, key, destination, settings.checkpoint_interval_s)

    async def run(self) -> None:
        """Delivers the checkpoints that are due, until cancelled. A failure is logged, counted and retried."""
        await forever(
            self.step,
            self._poll_s,
            on_error="checkpoint_not_delivered",
            backoff=_BACKOFF,
            errors=(StoreUnavailable, CheckpointFailed),
            jitter=0.25,
        )

    async def step(self) -> None:
        """Delivers a checkpoint if one is due and no other process does. Raises StoreUnavailable, CheckpointFailed."""
        try:
            if not await self._store.claim(self._interval, CLAIM):
                return
            try:
                await self._deliver()
            except CheckpointFailed:
                await self._store.release()
                raise
        except (StoreUnavailable, CheckpointFailed):
            CHECKPOINT_FAILURES.inc()
            raise

    async def _deliver(self) -> None:
        head, last = await self._chain.head(), await self._last()
        if head is None:
            return await self._store.release()
        if last is not None and not await self._chain.contains(last):
            # A new signature would hide that the rows before it were changed.
            raise CheckpointFailed(f"the audit chain no longer contains link {last.link} of the last checkpoint")
        if last == head:
            return await self._store.delivered(None)
        note = checkpoint.signed(head, self._key)
        await self._destination.deliver(note)
        await self._store.delivered(note)
        log.info("checkpoint_delivered", link=head.link, tree_size=head.tree_size)
        return None

    async def _last(self) -> ChainHead | None:
        """The last checkpoint, from the file outside the database if there is one."""
        file, note = self._destination.file, None
        if file and file.exists():
            note = checkpoint.last_of(await asyncio.to_thread(file.read_text, "utf-8", "replace"))
        note = note or await self._store.last()
        if note is None:
            return None
        try:
            return checkpoint.opened(note, self._key.public)
        except NoteRefused as error:
            # Another key signed the last one.
            log.info("checkpoint_of_another_key", reason=str(error))
            return None


def _append(path: Path, note: str) -> None:
    """Appends a note and writes it to the disk. The note begins a new line even if a crash cut the last one."""
    with path.open("ab") as file:
        file.write((("\n" if file.seek(0, os.SEEK_END) else "") + note).encode())
        file.flush()
        os.fsync(file.fileno())
