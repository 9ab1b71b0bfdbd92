"""Notifies one process of changes to keys and policies over a connection that LISTENs, and notices when it is dead.

NOTIFY is not durable. So a connection counts as contact only once the revocations since the last contact have been read
from their table, and after that only while the server answers a heartbeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from gateway.loops import forever
from gateway.stores.postgres import Connection, Database, translated_errors

HEARTBEAT_S = 1.0
# A revocation carries the time at which its row was made, which is a moment before the notification.
OVERLAP = timedelta(minutes=1)

_MISSED = "SELECT prefix FROM gateway.revocations WHERE revoked_at >= $1"


class ChangeListener:
    """Calls back on revocations and policy changes. The callbacks must not block and must not raise.

    `on_revoked(prefix)`: forget this key, now. `on_policy_changed(tenant_id)`: read this tenant's keys anew.
    `on_gap(since)`: policy changes after `since` (the server's time) were missed, None on the first connection:
    read everything anew. `on_revoked` has been called for the missed revocations by then.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_revoked: Callable[[str], None],
        on_policy_changed: Callable[[int], None],
        on_gap: Callable[[datetime | None], None],
        monotonic: Callable[[], float] = time.monotonic,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._database = database
        self._on_revoked = on_revoked
        self._on_policy_changed = on_policy_changed
        self._on_gap = on_gap
        self._monotonic = monotonic
        self._heartbeat_s = heartbeat_s
        self._up = asyncio.Event()
        self._server_time: datetime | None = None
        self.last_contact_monotonic: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the last heartbeat was answered."""
        return self._up.is_set()

    @property
    def staleness_s(self) -> float:
        """Seconds since the last contact, infinite before the first."""
        if self.last_contact_monotonic is None:
            return float("inf")
        return self._monotonic() - self.last_contact_monotonic

    async def wait_connected(self) -> None:
        """Returns once the listener is connected."""
        await self._up.wait()

    async def run(self) -> None:
        """Listens until cancelled, and connects again whenever the connection fails."""
        await forever(self._listen, 0.0, on_error="revocations_not_received")

    async def _listen(self) -> None:
        connection = await self._database.connect()
        try:
            with translated_errors():
                await connection.add_listener("key_revoked", self._on_revoked_notification)
                await connection.add_listener("policy_changed", self._on_policy_changed_notification)
                await self._catch_up(connection)
                while True:
                    await self._heartbeat(connection)
                    await asyncio.sleep(self._heartbeat_s)
        finally:
            self._up.clear()
            connection.terminate()

    async def _catch_up(self, connection: Connection) -> None:
        since = self._server_time
        if since is not None:
            for row in await connection.fetch(_MISSED, since - OVERLAP):
                self._on_revoked(row["prefix"])
        self._on_gap(since)

    async def _heartbeat(self, connection: Connection) -> None:
        requested_at = self._monotonic()
        self._server_time = await connection.fetchval("SELECT clock_timestamp()")
        self.last_contact_monotonic = requested_at
        self._up.set()

    def _on_revoked_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._on_revoked(str(payload))

    def _on_policy_changed_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.isascii() and text.isdigit():
            self._on_policy_changed(int(text))
