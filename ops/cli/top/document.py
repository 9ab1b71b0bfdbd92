"""Combines rates, the queue, backends and budgets into the document that `top` shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ops.cli.top.rates import Activity, Scrape, activity


def document(
    *,
    time: str,
    scrapes: tuple[Scrape, Scrape, Scrape],
    queue: Mapping[str, Any] | None,
    backends: Sequence[Mapping[str, Any]],
    budgets: Sequence[Mapping[str, Any]] | None,
    unavailable: Sequence[str],
) -> dict[str, Any]:
    """The document of `top --json`; `queue` is that of `show-queue --json`, None without a queue.

    `scrapes` are the oldest one of the denials' window, the previous and the present one. Rows are in the order in
    which they matter: waiting and running tenants, the fullest budgets and the most recent denials first.
    """
    now = activity(*scrapes)
    first, _, later = scrapes
    return {
        "time": time,
        "interval_s": round(later.taken_s - scrapes[1].taken_s, 3),
        "requests": {
            "running": now.running,
            "waiting": sum(each["waiting"] for each in queue["tenants"]) if queue else now.waiting,
            "oldest_wait_ms": max((each["oldest_wait_ms"] for each in queue["tenants"]), default=0) if queue else None,
            "per_second": round(now.requests_per_second, 2),
        },
        "tokens_per_second": round(now.tokens_per_second, 1),
        "backends": _backends(backends, queue),
        "tenants": _tenants(now, queue),
        "budgets": None if budgets is None else sorted(budgets, key=_share_used, reverse=True),
        "denials_window_s": round(later.taken_s - first.taken_s, 3),
        "denials": [{"code": each.code, "recent": each.recent, "total": each.total} for each in now.denials],
        "processes": sorted(later.processes),
        "unavailable": list(unavailable),
    }


def _backends(backends: Sequence[Mapping[str, Any]], queue: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    in_queue = {each["name"]: each for each in queue["backends"]} if queue else {}
    return [
        {
            "name": each["name"],
            "answers": each["answers"],
            "version": each["version"],
            "models": each["models"],
            "replicas": in_queue[each["name"]]["replicas"]
            if each["name"] in in_queue
            else [{"url": url, "slots": None, "running": None, "suspended": None} for url in each["urls"]],
            "waiting": in_queue[each["name"]]["waiting"] if each["name"] in in_queue else None,
            "oldest_wait_ms": in_queue[each["name"]]["oldest_wait_ms"] if each["name"] in in_queue else None,
        }
        for each in backends
    ]


def _tenants(now: Activity, queue: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The tenants that run, wait or receive tokens. The metrics have names for METRICS_TENANTS_MAX of them.

    The queue counts requests; it does not know those of a tenant that has just finished, and none while it is off.
    """
    idle = {"weight": None, "running": None, "waiting": None, "oldest_wait_ms": None}
    known = {each["tenant"]: each for each in queue["tenants"]} if queue else {}
    rows = []
    for name in {**known, **now.tenant_tokens_per_second}:
        each = known.get(name, idle)
        row = {"tenant": name, **{field: each[field] for field in idle}}
        rows.append({**row, "tokens_per_second": round(now.tenant_tokens_per_second.get(name, 0.0), 1)})
    return sorted(rows, key=_tenant_order)


def _tenant_order(row: Mapping[str, Any]) -> tuple[float | str, ...]:
    waiting, running = row["waiting"] or 0, row["running"] or 0
    return -waiting, -running, -row["tokens_per_second"], row["tenant"].casefold()


def _share_used(budget: Mapping[str, Any]) -> float:
    taken: int = budget["used"] + (budget["reserved"] or 0)
    return taken / budget["limit"] if budget["limit"] else 1.0
