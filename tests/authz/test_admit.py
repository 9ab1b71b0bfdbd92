"""The headers of a denial."""

from __future__ import annotations

from authz.admit import retry_headers
from gateway.errors import STATUS, Code, Denied


def test_exactly_the_429s_have_a_retry_after_even_when_no_time_is_known() -> None:
    with_time = {code for code in Code if "retry-after" in retry_headers(Denied(code))}
    assert with_time == {code for code, status in STATUS.items() if status == 429}
    assert all(int(retry_headers(Denied(code))["retry-after"]) > 0 for code in with_time)


def test_a_known_retry_time_is_sent() -> None:
    assert retry_headers(Denied(Code.RATE_LIMIT_EXCEEDED, retry_after_s=7))["retry-after"] == "7"


def test_only_an_exhausted_budget_is_not_worth_a_retry() -> None:
    assert [code for code in Code if "x-should-retry" in retry_headers(Denied(code))] == [Code.BUDGET_EXHAUSTED]
