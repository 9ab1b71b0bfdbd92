"""What an admission decides, given where key and tenant stand. Pure; `admit.lua` is the same in Redis.

All checks are made, whatever the first of them says: the code is that of the first that refuses, and the time to
retry is one at which none of them will.

The output that is granted is all that was asked for, or all that the budgets leave: nobody is refused, and no answer is
cut short, while budget is free and unheld. What MAX_NUM_PREDICT allows is the most that one request keeps from others,
and what it did not use is free again when it is settled. Input is an estimate, so `used` may pass a budget by the
error of that estimate; output never does. The token rate, on the other hand, never shortens an answer for the sake of
what others use: a request that does not fit waits, and only one larger than the whole rate is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import Code
from gateway.quota import periods
from gateway.quota.port import Admission, LimitStatus, ReservationDenied
from gateway.values import Limits, Period
from tests.gateway.quota.model.window import Window


@dataclass(frozen=True, slots=True)
class SubjectState:
    """Where one subject stands: limits and budgets, window, tokens used and held per period in force, live leases."""

    limits: Limits
    budgets: Mapping[Period, int]
    window: Window
    used: Mapping[Period, int]
    held: Mapping[Period, int]
    live: int

    def left(self) -> Iterator[tuple[int, Period]]:
        """What each budget leaves, which may be below 0."""
        for period, limit in self.budgets.items():
            yield limit - self.used[period] - self.held[period], period


def decide(
    admission: Admission, subject_states: Sequence[SubjectState], now_ms: int, *, has_capacity: bool
) -> int | ReservationDenied:
    """The output cap that is granted, or the refusal. `subject_states` are the key's and the tenant's."""
    # The earliest milliseconds at which each refusing check would pass, None for no known time.
    refusals: dict[Code, list[int | None]] = {}
    if not has_capacity:
        refusals[Code.AUDIT_BACKLOG] = [None]
    for each in subject_states:
        if each.window.requests + 1 > each.limits.rpm:
            free_at_ms = each.window.free_at_ms(each.limits.rpm - 1, each.window.tokens)
            refusals.setdefault(Code.RATE_LIMIT_EXCEEDED, []).append(free_at_ms)
        if each.live + 1 > each.limits.concurrent:
            refusals[Code.CONCURRENCY_EXCEEDED] = [None]

    asked, input_tokens = admission.requested_output_tokens, admission.input_tokens
    least = input_tokens + min(asked, 1)
    # No request may take more than its whole token rate, however idle the window is.
    most = min(asked, *(each.limits.tpm - input_tokens for each in subject_states))
    cap = most
    for each in subject_states:
        for left, period in each.left():
            cap = min(cap, left - input_tokens)
            if each.budgets[period] - each.used[period] < least:
                resets = _end_ms(period, now_ms) if each.budgets[period] >= least else None
                refusals.setdefault(Code.BUDGET_EXHAUSTED, []).append(resets)
            elif left < least:
                refusals[Code.BUDGET_RESERVED] = [None]
    refusals |= _token_rate(subject_states, least, input_tokens + cap, input_tokens + most, refused=bool(refusals))
    if not refusals:
        return cap
    code = next(code for code in ORDER if code in refusals)
    return ReservationDenied(code, _retry_after_s(refusals, now_ms), limit_status(subject_states))


ORDER = (
    Code.AUDIT_BACKLOG,
    Code.RATE_LIMIT_EXCEEDED,
    Code.CONCURRENCY_EXCEEDED,
    Code.BUDGET_EXHAUSTED,
    Code.BUDGET_RESERVED,
    Code.TOKEN_RATE_EXCEEDED,
)


def _token_rate(
    subject_states: Sequence[SubjectState], least: int, wanted: int, most: int, *, refused: bool
) -> dict[Code, list[int | None]]:
    """Refuses what does not fit the token windows.

    A request that is refused anyway is weighed with the `most` it may ask for: when it comes again a budget that cuts
    it short now may have been reset.
    """
    if most < least:
        return {Code.TOKEN_RATE_EXCEEDED: [None]}
    if not refused and all(each.window.tokens + wanted <= each.limits.tpm for each in subject_states):
        return {}
    over = [each for each in subject_states if each.window.tokens + most > each.limits.tpm]
    if not over:
        return {}
    return {
        Code.TOKEN_RATE_EXCEEDED: [
            each.window.free_at_ms(each.window.requests, each.limits.tpm - most) for each in over
        ]
    }


def _retry_after_s(refusals: Mapping[Code, Sequence[int | None]], now_ms: int) -> int | None:
    latest_ms = now_ms
    for each in (at_ms for times in refusals.values() for at_ms in times):
        if each is None:
            return None
        latest_ms = max(latest_ms, each)
    return max(1, -((now_ms - latest_ms) // 1000))


def limit_status(subject_states: Sequence[SubjectState]) -> LimitStatus:
    """The limit_status for the headers: of the key's and the tenant's the ones with less left."""
    by_requests = min(subject_states, key=lambda each: each.limits.rpm - each.window.requests)
    by_tokens = min(subject_states, key=lambda each: each.limits.tpm - each.window.tokens)
    left = min((pair for each in subject_states for pair in each.left()), key=lambda pair: pair[0], default=None)
    return LimitStatus(
        by_requests.limits.rpm,
        max(0, by_requests.limits.rpm - by_requests.window.requests),
        by_tokens.limits.tpm,
        max(0, by_tokens.limits.tpm - by_tokens.window.tokens),
        left[1] if left else None,
        max(0, left[0]) if left else None,
    )


def _end_ms(period: Period, now_ms: int) -> int | None:
    end = periods.end(period, periods.at(now_ms))
    return None if end is None else int(end.timestamp()) * 1000
