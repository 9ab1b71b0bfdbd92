"""The estimate of an input is corrected by what the backend counted, per tenant and model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.quota.port import Reserved
from gateway.values import Budgets, Period
from tests.gateway.quota.builders import admitted, asks, entry, hold_of
from tests.gateway.quota.conftest import Bench
from tests.gateway.quota.model.calibration import Calibration, learn


async def held(bench: Bench, estimate: int, *, tenant: int = 1, model: str = "small") -> int:
    """The input tokens held for that estimate. The hold is released again."""
    hold = await admitted(bench.quota, asks(tenant=tenant, model=model, input_tokens=estimate))
    assert await bench.quota.release(hold.request_id, hold.tenant_id, hold.key_id)
    return hold.input_tokens


async def count(bench: Bench, estimate: int, counted: int) -> None:
    """Settles one request with that estimate and `counted` input tokens."""
    hold = await admitted(bench.quota, asks(model="small", input_tokens=estimate))
    assert await bench.quota.settle(entry(hold, input_tokens=counted))


async def test_an_estimate_is_not_corrected_before_a_backend_has_counted(bench: Bench) -> None:
    assert await held(bench, 300) == 300


async def test_estimates_approach_the_counts_from_above(bench: Bench) -> None:
    for _ in range(40):
        await count(bench, 300, 600)
    assert 600 <= await held(bench, 300) <= 620
    for _ in range(60):
        await count(bench, 300, 150)
    assert 150 <= await held(bench, 300) <= 200


async def test_other_models_and_tenants_are_not_affected(bench: Bench) -> None:
    await count(bench, 300, 900)
    assert await held(bench, 300, model="large") == 300
    assert await held(bench, 300, tenant=2) == 300
    assert await held(bench, 300) > 900


async def test_an_estimated_usage_is_not_a_sample(bench: Bench) -> None:
    hold = await admitted(bench.quota, asks(model="small", input_tokens=300))
    estimated = entry(hold, input_tokens=2400)
    object.__setattr__(estimated, "usage_source", "estimated")
    assert await bench.quota.settle(estimated)
    assert await held(bench, 300) == 300


async def test_the_count_of_a_prompt_that_may_be_cut_is_not_a_sample(bench: Bench) -> None:
    cut = replace(asks(model="small", input_tokens=17_600), calibrates=False)
    hold = await admitted(bench.quota, cut)
    assert await bench.quota.settle(entry(hold, input_tokens=2047))
    assert await held(bench, 5867) == 5867


async def test_budget_and_token_rate_use_the_corrected_estimate(bench: Bench) -> None:
    await count(bench, 100, 200)
    admission = asks(model="small", input_tokens=100, output=50, budgets=Budgets(total=1000))
    answer = await bench.quota.admit(admission)
    assert isinstance(answer, Reserved)
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert counters.held[11, Period.TOTAL] == answer.input_tokens + 50
    assert answer.limit_status.budget_remaining == 1000 - 200 - answer.input_tokens - 50
    assert await bench.quota.settle(entry(hold_of(admission, answer), output_tokens=50))
    counters = await bench.quota.counters(1)
    assert counters is not None
    assert (counters.held, counters.used[11, Period.TOTAL]) == ({}, 200 + answer.input_tokens + 50)


@pytest.mark.parametrize("counted", [0, 1, 10_000_000])
def test_an_absurd_count_changes_the_factor_within_bounds(counted: int) -> None:
    learned = learn(None, 100, counted)
    assert learned is not None
    assert 20 <= learned.corrected(100) <= 800


def test_short_inputs_are_not_samples() -> None:
    assert learn(None, 19, 60) is None
    known = Calibration(1000, 100)
    assert learn(known, 1, 60) is known
