"""Budget periods in UTC: when each began and when it ends. Pure. `shared.lua` and `admit.lua` do the same in Redis."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from gateway.values import Budgets, Period

TOTAL_START = date(1970, 1, 1)


def at(now_ms: int) -> datetime:
    """The aware UTC time of `now_ms`, milliseconds since 1970."""
    return datetime.fromtimestamp(now_ms // 1000, UTC) + timedelta(milliseconds=now_ms % 1000)


def starts(now: datetime) -> dict[Period, date]:
    """The first day (UTC) of each period that `now` (aware) is in."""
    today = now.astimezone(UTC).date()
    return {Period.DAY: today, Period.MONTH: today.replace(day=1), Period.TOTAL: TOTAL_START}


def end(period: Period, now: datetime) -> datetime | None:
    """Midnight UTC at which the period that `now` (aware) is in ends; None for `total`, which never does."""
    today = now.astimezone(UTC).date()
    match period:
        case Period.DAY:
            following = today + timedelta(days=1)
        case Period.MONTH:
            following = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        case Period.TOTAL:
            return None
    return datetime.combine(following, time(), UTC)


def limits(budgets: Budgets) -> dict[Period, int]:
    """The budgets that are set, by period."""
    by_period = {Period.DAY: budgets.day, Period.MONTH: budgets.month, Period.TOTAL: budgets.total}
    return {period: limit for period, limit in by_period.items() if limit is not None}
