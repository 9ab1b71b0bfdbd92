"""The queue in the document of `GET /v1/usage`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from authz.catalog.usage import queue_document, usage_document
from gateway.queue.port import QueueStatus, TenantStatus, TicketStatus
from gateway.quota.port import Counters
from gateway.quota.redis.status import WindowStatus
from gateway.values import Budgets, Limits, Principal, Scope

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
ACME, OTHER, IDLE = 1, 2, 3
ACME_KEY, ACME_BATCH, ACME_IDLE, OTHER_KEY = 11, 12, 13, 21
# The tickets are in order of arrival, those of both tenants mixed.
STATUS = QueueStatus(
    {},
    {ACME: TenantStatus(2, 3, 100.0), OTHER: TenantStatus(1, 2, 5.0)},
    (
        TicketStatus(NOW_MS - 9000, OTHER, OTHER_KEY, ("a",)),
        TicketStatus(NOW_MS - 7000, ACME, ACME_BATCH, ("a",)),
        TicketStatus(NOW_MS - 5000, OTHER, OTHER_KEY, ("b",)),
        TicketStatus(NOW_MS - 3000, ACME, ACME_KEY, ("a",)),
        TicketStatus(NOW_MS - 1000, ACME, ACME_KEY, ("a",)),
    ),
)
PRINCIPAL = Principal(
    ACME, "acme", ACME_KEY, "nz_AAAAAAAAA", frozenset(Scope), frozenset(), allow_all_models=True,
    tenant_limits=Limits(60, 1000, 8), key_limits=Limits(60, 1000, 8), tenant_budgets=Budgets(), key_budgets=Budgets(),
    log_prompts=False, expires_at=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("tenant", "key", "running", "waiting", "position", "oldest_wait_ms"),
    [
        (ACME, ACME_BATCH, 2, 3, 1, 7000),
        (ACME, ACME_KEY, 2, 3, 2, 7000),
        (ACME, ACME_IDLE, 2, 3, None, 7000),
        (OTHER, OTHER_KEY, 1, 2, 1, 9000),
        (IDLE, 31, 0, 0, None, 0),
    ],
)
def test_a_key_sees_its_place_among_the_waiting_requests_of_its_own_tenant(
    tenant: int, key: int, running: int, waiting: int, position: int | None, oldest_wait_ms: int
) -> None:
    assert queue_document(STATUS, tenant, key, NOW) == {
        "running": running,
        "waiting": waiting,
        "position": position,
        "oldest_wait_ms": oldest_wait_ms,
    }


def test_no_wait_is_negative_when_the_clock_of_redis_is_ahead() -> None:
    ahead = QueueStatus({}, {ACME: TenantStatus(0, 1, 0.0)}, (TicketStatus(NOW_MS + 50, ACME, ACME_KEY, ("a",)),))
    assert queue_document(ahead, ACME, ACME_KEY, NOW)["oldest_wait_ms"] == 0


def document(queue: QueueStatus | None) -> dict[str, Any]:
    window = WindowStatus(0, 0, 0)
    return usage_document(PRINCIPAL, window, window, Counters({}, {}, {}), [], queue, NOW)


def test_the_whole_member_is_null_without_a_queue() -> None:
    assert document(None)["queue"] is None
    assert document(STATUS)["queue"] == queue_document(STATUS, ACME, ACME_KEY, NOW)
