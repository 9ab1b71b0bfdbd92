"""Retention, and the audit log's partitions of the coming months."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from ops.database.retention import Retention

log = structlog.get_logger()

INTERVAL_S = 6 * 3600.0
RETRY_S = 60.0


class RetentionJob:
    """Any number of them may run at once."""

    def __init__(self, retention: Retention, settings: Settings) -> None:
        self._retention = retention
        self._kept = timedelta(days=settings.audit_log_default_retention_days)

    async def run(self) -> None:
        """For ever, first at once."""
        while True:
            now = datetime.now(UTC)
            try:
                pruned = await self._retention.prune(now - self._kept, now)
            except StoreUnavailable as error:
                log.warning("upkeep_postponed", reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            log.info("pruned", audit_partitions=pruned.audit_partitions, prompts=pruned.prompts)
            await asyncio.sleep(INTERVAL_S)
