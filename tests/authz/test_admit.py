"""What a refusal says beside its code."""

from __future__ import annotations

import pytest

from authz.admit import retry_headers
from gateway.errors import STATUS, Code, Denied


@pytest.mark.parametrize("code", [code for code, status in STATUS.items() if status == 429])
def test_every_429_says_when_to_come_back_also_where_no_time_is_known(code: Code) -> None:
    assert int(retry_headers(Denied(code))["retry-after"]) > 0
    assert retry_headers(Denied(code, retry_after_s=7))["retry-after"] == "7"


def test_nothing_but_a_429_says_when_to_come_back() -> None:
    headers = {code: retry_headers(Denied(code)) for code, status in STATUS.items() if status != 429}
    assert {code: each for code, each in headers.items() if each} == {}


def test_only_a_budget_that_is_used_up_is_not_worth_another_try() -> None:
    assert [code for code in Code if "x-should-retry" in retry_headers(Denied(code))] == [Code.BUDGET_EXHAUSTED]
