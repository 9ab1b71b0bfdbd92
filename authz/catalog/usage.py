"""The document of `GET /v1/usage`: what a caller may use, has used and has left. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gateway.ledger.store import ModelUsage
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
    now: datetime,
) -> dict[str, Any]:
    """The limits, windows and budgets of the key and of its tenant, and the key's tokens of today by model.

    `now` is aware. Tokens are input plus output; `reserved` are those that running requests hold.
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
