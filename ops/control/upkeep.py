"""The jobs of the audit log: one seals rows into the audit chain, one enforces retention and makes partitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from gateway.loops import Backoff, forever
from gateway.settings import Settings
from ops.database.audit_seal import AuditSealer
from ops.database.retention import Retention

log = structlog.get_logger()

INTERVAL_S = 6 * 3600.0
SEAL_INTERVAL_S = 5.0
_BACKOFF = Backoff(first_s=60.0, max_s=600.0)


class RetentionJob:
    """Several jobs may run at once."""

    def __init__(self, retention: Retention, settings: Settings) -> None:
        self._retention = retention
        self._retention_period = timedelta(days=settings.audit_log_default_retention_days)

    async def run(self) -> None:
        """Prunes now and then every INTERVAL_S, until cancelled."""
        await forever(self._prune, INTERVAL_S, on_error="retention_postponed", backoff=_BACKOFF, jitter=0.25)

    async def _prune(self) -> None:
        now = datetime.now(UTC)
        pruned = await self._retention.prune(now - self._retention_period, now)
        log.info("pruned", audit_partitions=pruned.audit_partitions, prompts=pruned.prompts)


async def seal_audit_log(sealer: AuditSealer) -> None:
    """Seals the rows that are due, now and then every SEAL_INTERVAL_S, until cancelled. Several may run at once."""

    async def seal() -> None:
        await sealer.seal()

    await forever(seal, SEAL_INTERVAL_S, on_error="audit_log_not_sealed", jitter=0.25)
