"""The decision on an admission, from the state of key and tenant. Pure. Model of `admit.lua`.

All checks are made. The code is that of the first check that denies, and at the time to retry none of them does.

The granted output is all that was requested, or all that the budgets leave: no request is denied, and no answer is
shortened, while budget is neither used nor held. One request holds at most MAX_NUM_PREDICT output tokens, and its
settlement frees the tokens that it did not use. Input is an estimate, so `used` may exceed a budget by the error of
that estimate; output never does. The token rate never shortens an answer because of other requests: a request that does
not fit waits, and only one that is larger than the whole rate is shortened.
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
    """The state of a key or a tenant. `used` and `held` are tokens in the current periods."""

    limits: Limits
    budgets: Mapping[Period, int]
    window: Window
    used: Mapping[Period, int]
    held: Mapping[Period, int]
    in_flight: int

    def left(self) -> Iterator[tuple[int, Period]]:
        """The tokens that each budget leaves, which may be below 0."""
        for period, limit in self.budgets.items():
            yield limit - self.used[period] - self.held[period], period


def decide(
    admission: Admission, subject_states: Sequence[SubjectState], now_ms: int, full: Sequence[Code] = ()
) -> int | ReservationDenied:
    """The granted output cap, or the denial. `subject_states` are those of the key and of the tenant.

    `full` has the codes of the shard's own bounds that are reached.
    """
    # The earliest times (ms) at which each denying check would pass, None for no known time.
    denials: dict[Code, list[int | None]] = {code: [None] for code in full}
    for each in subject_states:
        if each.window.requests + 1 > each.limits.rpm:
            free_at_ms = each.window.free_at_ms(each.limits.rpm - 1, each.window.tokens)
            denials.setdefault(Code.RATE_LIMIT_EXCEEDED, []).append(free_at_ms)
        if each.in_flight + 1 > each.limits.concurrent:
            denials[Code.CONCURRENCY_EXCEEDED] = [None]

    requested, input_tokens = admission.requested_output_tokens, admission.input_tokens
    least = input_tokens + min(requested, 1)
    # No request may take more than its whole token rate, however idle the window is.
    most = min(requested, *(each.limits.tpm - input_tokens for each in subject_states))
    cap = most
    for each in subject_states:
        for left, period in each.left():
            cap = min(cap, left - input_tokens)
            if each.budgets[period] - each.used[period] < least:
                resets = _end_ms(period, now_ms) if each.budgets[period] >= least else None
                denials.setdefault(Code.BUDGET_EXHAUSTED, []).append(resets)
            elif left < least:
                denials[Code.BUDGET_RESERVED] = [None]
    denials |= _token_rate(subject_states, least, input_tokens + cap, input_tokens + most, denied=bool(denials))
    if not denials:
        return cap
    code = next(code for code in ORDER if code in denials)
    return ReservationDenied(code, _retry_after_s(denials, now_ms), limit_status(subject_states, now_ms))


ORDER = (
    Code.AUDIT_BACKLOG,
    Code.UNAVAILABLE,
    Code.RATE_LIMIT_EXCEEDED,
    Code.CONCURRENCY_EXCEEDED,
    Code.BUDGET_EXHAUSTED,
    Code.BUDGET_RESERVED,
    Code.TOKEN_RATE_EXCEEDED,
)


def _token_rate(
    subject_states: Sequence[SubjectState], least: int, wanted: int, most: int, *, denied: bool
) -> dict[Code, list[int | None]]:
    """The denial of a request that does not fit the token windows.

    A request that is denied for another reason is checked with the `most` output that it can get: a budget that
    shortens it now may have been reset by the time of the retry.
    """
    if most < least:
        return {Code.TOKEN_RATE_EXCEEDED: [None]}
    if not denied and all(each.window.tokens + wanted <= each.limits.tpm for each in subject_states):
        return {}
    over = [each for each in subject_states if each.window.tokens + most > each.limits.tpm]
    if not over:
        return {}
    return {
        Code.TOKEN_RATE_EXCEEDED: [
            each.window.free_at_ms(each.window.requests, each.limits.tpm - most) for each in over
        ]
    }


def _retry_after_s(denials: Mapping[Code, Sequence[int | None]], now_ms: int) -> int | None:
    latest_ms = now_ms
    for each in (at_ms for times in denials.values() for at_ms in times):
        if each is None:
            return None
        latest_ms = max(latest_ms, each)
    return max(1, -((now_ms - latest_ms) // 1000))


def limit_status(subject_states: Sequence[SubjectState], now_ms: int) -> LimitStatus:
    """The values of the headers: of key and tenant, and of all budgets, those with the least remaining."""
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
        max(each.window.resets_in_s(now_ms) for each in subject_states),
    )


def _end_ms(period: Period, now_ms: int) -> int | None:
    end = periods.end(period, periods.at(now_ms))
    return None if end is None else int(end.timestamp()) * 1000
