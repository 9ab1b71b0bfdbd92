"""The copy of the last signed checkpoint in PostgreSQL, and whose turn it is to deliver the next one."""

from __future__ import annotations

from datetime import datetime, timedelta

from gateway.stores.postgres import Database


class CheckpointStore:
    """All methods raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last(self) -> str | None:
        """Returns the last signed note, None before the first one."""
        note: str | None = await self._database.fetchval("SELECT note FROM gateway.audit_checkpoint")
        return note

    async def made_at(self) -> datetime | None:
        """Returns when the last checkpoint was delivered, None before the first one."""
        made_at: datetime | None = await self._database.fetchval("SELECT made_at FROM gateway.audit_checkpoint")
        return made_at

    async def claim(self, every: timedelta, at_most: timedelta) -> bool:
        """Claims the delivery of the next checkpoint, `every` after the last one. The claim expires after `at_most`.

        Of any number of processes, one has the claim.
        """
        return await self._database.fetchval(_CLAIM, every, at_most) is not None

    async def release(self) -> None:
        """Gives the claim up after a failure."""
        await self._database.execute(_RELEASE)

    async def delivered(self, note: str | None) -> None:
        """Ends the claim with the delivered note, None if the last one is still current."""
        await self._database.execute(_DELIVERED, note)


_CLAIM = """
UPDATE gateway.audit_checkpoint SET claimed_until = clock_timestamp() + $2::interval
WHERE (made_at IS NULL OR made_at <= clock_timestamp() - $1::interval) AND claimed_until <= clock_timestamp()
RETURNING true
"""
_RELEASE = "UPDATE gateway.audit_checkpoint SET claimed_until = '-infinity'"
_DELIVERED = """
UPDATE gateway.audit_checkpoint
SET made_at = clock_timestamp(), note = coalesce($1, note), claimed_until = '-infinity'
"""
