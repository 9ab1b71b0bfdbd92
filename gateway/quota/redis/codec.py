"""Encodes the arguments and decodes the replies of the scripts in `lua/`. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from gateway.errors import Code
from gateway.queue.port import QueueRules
from gateway.quota import periods
from gateway.quota.port import (
    Counters,
    EventId,
    ExpiredHold,
    Hold,
    LimitStatus,
    Parked,
    Progress,
    ReservationDenied,
    Reserved,
)
from gateway.quota.rebuild import Used
from gateway.values import Budgets, Limits, Period, Priority


@lru_cache(maxsize=4096)
def caller(
    tenant_id: int,
    key_id: int,
    tenant_rules: tuple[Limits, Budgets],
    key_rules: tuple[Limits, Budgets],
    place: tuple[int, Priority] | None,
) -> str:
    """The caller of `admit.lua`. `place` has the weight and the priority of its ticket, None without a queue."""
    fields: dict[str, Any] = {
        "tenant": tenant_id,
        "key": key_id,
        "of_tenant": _rules(*tenant_rules),
        "of_key": _rules(*key_rules),
    }
    if place:
        weight, priority = place
        fields |= {"weight": weight, "class": int(priority is Priority.BATCH)}
    return json.dumps(fields)


def _rules(limits: Limits, budgets: Budgets) -> dict[str, Any]:
    by_period = periods.limits(budgets)
    return {
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "concurrent": limits.concurrent,
        "budgets": [by_period.get(period, -1) for period in Period],
    }


def bounds(hold_lease_ms: int, backlog_max: int, running_max: int, rules: QueueRules | None) -> str:
    """The bounds of `admit.lua`; `rules` are those of the queue, None without one."""
    fields = {"hold_lease_ms": hold_lease_ms, "backlog_max": backlog_max, "running_max": running_max}
    if rules:
        fields |= {
            "wait_max": int(rules.wait_max_s * 1000),
            "tickets_max": rules.tickets_max,
            "bytes_max": rules.bytes_max,
            "ticket_lease_ms": int(rules.ticket_lease_s * 1000),
            "restore_ms": int(rules.restore_s * 1000),
        }
    return json.dumps(fields)


def day(at_ms: int) -> str:
    """The day (`2025-11-21`) of `at_ms`, from which the names of counters are made."""
    return periods.at(at_ms).date().isoformat()


def used_fields(used: Used) -> list[str | int]:
    """The fields of COUNTERS for `used`, each followed by its value."""
    fields: list[str | int] = []
    for (key_id, period, start), tokens in used.items():
        subject = "t" if key_id is None else f"k{key_id}"
        fields += [f"used:{subject}:{_SUFFIX[period](start)}", tokens]
    return fields


_SUFFIX: dict[Period, Callable[[date], str]] = {
    Period.DAY: lambda start: f"day:{start.isoformat()}",
    Period.MONTH: lambda start: f"month:{start.isoformat()[:7]}",
    Period.TOTAL: lambda _: "total",
}


def reservation(status: bytes, values: list[Any], idempotency_token: str) -> Reserved | Parked | ReservationDenied:
    """The reply of `admit.lua` to a request on which it decided."""
    at_ms, input_tokens, output_cap, retry_after_s, *rest, replica, queued = values
    if status == b"admitted":
        return Reserved(at_ms, input_tokens, output_cap, _limit_status(rest), replica.decode(), queued)
    if status == b"waiting":
        return Parked(at_ms, queued, idempotency_token)
    return ReservationDenied(Code(status.decode()), None if retry_after_s < 0 else retry_after_s, _limit_status(rest))


def _limit_status(values: list[Any]) -> LimitStatus:
    requests_limit, requests_left, tokens_limit, tokens_left, period, left, resets_in_s = values
    budget_period, budget_left = (Period(period.decode()), int(left)) if period else (None, None)
    return LimitStatus(
        requests_limit, requests_left, tokens_limit, tokens_left, budget_period, budget_left, resets_in_s
    )


def event_id(text: bytes) -> EventId:
    """The id of an event from `<ms>-<sequence>`."""
    ms, _, sequence = text.partition(b"-")
    return int(ms), int(sequence)


def lost_hold(hold: Hold) -> str:
    """The text of the hold as `renew_all.lua` stores it when Redis has lost it."""
    fields = {
        "idempotency_token": "",
        "tenant": hold.tenant_id,
        "key": hold.key_id,
        "at": hold.admitted_at_ms,
        "day": day(hold.admitted_at_ms),
        "input": hold.input_tokens,
        "cap": hold.output_cap,
    }
    return f"{json.dumps(fields)}\n{hold.grant_json}"


def expired_hold(request_id: bytes, text: bytes) -> ExpiredHold:
    """One pair of `expired.lua`'s reply. Holds of layout 2 have the grant in the object."""
    line, _, grant = text.decode().partition("\n")
    data = json.loads(line)
    return ExpiredHold(
        Hold(
            request_id.decode(),
            data["tenant"],
            data["key"],
            data["at"],
            data["input"],
            data["cap"],
            grant or data["grant"],
        ),
        Progress(data.get("in", 0), data.get("out", 0), data.get("bytes", 0)),
    )


def counters(now_ms: int, used: Mapping[bytes, bytes], held: Mapping[bytes, bytes]) -> Counters:
    """The fields of COUNTERS and of HELD, without past periods."""
    today = day(now_ms)
    return Counters(_used(used, today), *_held(held, today))


def _used(fields: Mapping[bytes, bytes], today: str) -> dict[tuple[int | None, Period], int]:
    """The values of the fields `used:S:P` of current periods."""
    current = {"day": today, "month": today[:7], "total": ""}
    sums = {}
    for field, value in fields.items():
        kind, _, rest = field.decode().partition(":")
        if kind == "used":
            subject, _, rest = rest.partition(":")
            period, _, start = rest.partition(":")
            if current[period] == start:
                sums[_key_id(subject), Period(period)] = int(value)
    return sums


def _held(
    fields: Mapping[bytes, bytes], today: str
) -> tuple[dict[tuple[int | None, Period], int], dict[int | None, int]]:
    """The tokens and the requests that the fields `S:<day>` have."""
    held: Counter[tuple[int | None, Period]] = Counter()
    in_flight: Counter[int | None] = Counter()
    for field, value in fields.items():
        subject, _, admitted = field.decode().partition(":")
        if admitted:
            requests, tokens = map(int, value.split(b":"))
            in_flight[_key_id(subject)] += requests
            held[_key_id(subject), Period.TOTAL] += tokens
            held[_key_id(subject), Period.MONTH] += tokens if admitted[:7] == today[:7] else 0
            held[_key_id(subject), Period.DAY] += tokens if admitted == today else 0
    return dict(+held), dict(in_flight)


def _key_id(subject: str) -> int | None:
    return None if subject == "t" else int(subject[1:])
