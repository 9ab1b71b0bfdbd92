"""Encodes the arguments and decodes the replies of the scripts in `lua/`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from gateway.errors import Code
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
from gateway.values import Budgets, Limits, Period


@lru_cache(maxsize=4096)
def rules(limits: Limits, budgets: Budgets) -> tuple[int, ...]:
    """Six arguments of `admit.lua`; -1 for no budget."""
    by_period = periods.limits(budgets)
    return limits.rpm, limits.tpm, limits.concurrent, *(by_period.get(period, -1) for period in Period)


def days(at_ms: int) -> tuple[str, str]:
    """The day and the month (`2025-11-21`, `2025-11`) of `at_ms`, which the names of counters end with."""
    day = periods.at(at_ms).date().isoformat()
    return day, day[:7]


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
    """The hold as `renew_all.lua` stores it when Redis has lost it."""
    day, month = days(hold.admitted_at_ms)
    return json.dumps(
        {
            "idempotency_token": "",
            "tenant": hold.tenant_id,
            "key": hold.key_id,
            "at": hold.admitted_at_ms,
            "day": day,
            "month": month,
            "input": hold.input_tokens,
            "cap": hold.output_cap,
            "grant": hold.grant_json,
        },
        ensure_ascii=False,
    )


def expired_hold(request_id: bytes, text: bytes | str) -> ExpiredHold:
    """One pair of `expired.lua`'s reply."""
    data = json.loads(text)
    return ExpiredHold(
        Hold(
            request_id.decode(),
            data["tenant"],
            data["key"],
            data["at"],
            data["input"],
            data["cap"],
            data["grant"],
        ),
        Progress(data.get("in", 0), data.get("out", 0), data.get("bytes", 0)),
    )


def counters(now_ms: int, used: Mapping[bytes, bytes], held: Mapping[bytes, bytes]) -> Counters:
    """The fields of COUNTERS and of HELD, without past periods."""
    day, month = days(now_ms)
    current = {"day": day, "month": month, "total": ""}

    def tokens(kind: str, fields: Mapping[bytes, bytes]) -> dict[tuple[int | None, Period], int]:
        sums = {}
        for subject, rest, value in _of_kind(kind, fields):
            period, _, start = rest.partition(":")
            if current[period] == start:
                sums[subject, Period(period)] = value
        return sums

    in_flight = {subject: value for subject, _, value in _of_kind("in_flight", held)}
    return Counters(tokens("used", used), tokens("held", held), in_flight)


def _of_kind(kind: str, fields: Mapping[bytes, bytes]) -> Iterator[tuple[int | None, str, int]]:
    """Of each field `kind:subject:rest`: the key (None: the tenant), the rest of the name, and the value."""
    for field, value in fields.items():
        name, _, rest = field.decode().partition(":")
        if name == kind:
            subject, _, rest = rest.partition(":")
            yield None if subject == "t" else int(subject[1:]), rest, int(value)
