"""The document of `GET /v1/usage`: what a caller may use, has used and has left. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gateway.ledger.store import ModelUsage
from gateway.queue.port import QueueStatus
from gateway.quota import periods
from gateway.quota.port import Counters
from gateway.quota.redis.status import WindowStatus
from gateway.values import Budgets, Limits, Principal


def usage_document(
    principal: Principal,
    tenant_window: WindowStatus,
    key_window: WindowStatus,
    counters: Counters,
    today: Sequence[ModelUsage],
    queue: QueueStatus | None,
    now: datetime,
) -> dict[str, Any]:
    """The limits, windows and budgets of the key and of its tenant, its queue, and the key's tokens of today by model.

    `queue` is None when there is no queue, and `now` is aware. Tokens are input plus output; `reserved` are those that
    running requests hold.
    """
    key_budgets = _budgets(principal.key_budgets, principal.key_id, counters, now)
    return {
        "object": "usage",
        "key": {
            "prefix": principal.key_prefix,
            "limits": {
                **_limits(principal.key_limits),
                "max_output": principal.sizes.output_tokens,
                "max_body": principal.sizes.body_bytes,
            },
            "window": _window(principal.key_limits, key_window),
            "budgets": key_budgets,
        },
        "tenant": {
            "name": principal.tenant,
            "limits": _limits(principal.tenant_limits),
            "window": _window(principal.tenant_limits, tenant_window),
            "budgets": _budgets(principal.tenant_budgets, None, counters, now),
        },
        "queue": None if queue is None else queue_document(queue, principal.tenant_id, principal.key_id, now),
        "today": [
            {
                "model": each.model,
                "requests": each.requests,
                "input_tokens": each.input_tokens,
                "output_tokens": each.output_tokens,
            }
            for each in today
        ],
    }


def queue_document(status: QueueStatus, tenant_id: int, key_id: int, now: datetime) -> dict[str, int | None]:
    """The part of the queue that a key may know: the requests of the key's tenant, and nothing of other tenants.

    `position` (from 1) is the place of the key's first waiting request among those of its tenant in order of arrival,
    None when no request of the key waits. It is not the order of service, which depends on the other tenants as well.
    `oldest_wait_ms` is how long the tenant's oldest request has waited, 0 when none waits. `now` is aware.
    """
    tenant = status.tenants.get(tenant_id)
    tickets = [ticket for ticket in status.tickets if ticket.tenant_id == tenant_id]
    places = (place for place, ticket in enumerate(tickets, start=1) if ticket.key_id == key_id)
    # The arrival is by Redis' clock, which may be ahead of this one.
    waits_ms = (max(0, int(now.timestamp() * 1000) - ticket.arrived_at_ms) for ticket in tickets)
    return {
        "running": tenant.running if tenant else 0,
        "waiting": len(tickets),
        "position": next(places, None),
        "oldest_wait_ms": max(waits_ms, default=0),
    }


def _limits(limits: Limits) -> dict[str, int]:
    return {"rpm": limits.rpm, "tpm": limits.tpm, "concurrent": limits.concurrent}


def _window(limits: Limits, window: WindowStatus) -> dict[str, int]:
    return {
        "requests_remaining": max(0, limits.rpm - window.requests),
        "tokens_remaining": max(0, limits.tpm - window.tokens),
        "resets_in_s": window.resets_in_s,
    }


def _budgets(budgets: Budgets, subject: int | None, counters: Counters, now: datetime) -> list[dict[str, Any]]:
    found = []
    for period, limit in periods.limits(budgets).items():
        used, reserved = counters.used.get((subject, period), 0), counters.held.get((subject, period), 0)
        ends = periods.end(period, now)
        found.append(
            {
                "period": str(period),
                "limit": limit,
                "used": used,
                "reserved": reserved,
                "remaining": max(0, limit - used - reserved),
                "resets_at": ends.isoformat() if ends else None,
            }
        )
    return found
