from __future__ import annotations

from typing import Any

from prometheus_client.core import Metric

from gateway.metrics.registry import REGISTRY
from gateway.values import Outcome
from meter.metrics import DeliveredTokens, LedgerMetrics
from tests.row_builders import entry


def values(name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by the values of their labels."""
    families: list[Metric] = list(REGISTRY.collect())
    return {tuple(s.labels.values()): s.value for family in families for s in family.samples if s.name == name}


def test_tokens_are_counted_by_tenant_model_and_kind() -> None:
    metrics = LedgerMetrics(100)
    metrics.record(
        [entry("a", tenant="one", model="m1"), entry("b", tenant="one", model="m1"), entry("c", tenant="two")]
    )
    found = values("neuronetz_tokens_total")
    assert found["one", "m1", "input"] == 6
    assert found["one", "m1", "output"] == 8
    assert found["two", "llama3.2:latest", "output"] == 4


def test_tenants_beyond_the_bound_share_a_label_value() -> None:
    before = values("neuronetz_tokens_total").get(("other", "bounded", "input"), 0)
    LedgerMetrics(1).record([entry(n, tenant=f"bounded-{n}", model="bounded") for n in "abc"])
    found = {key: value for key, value in values("neuronetz_tokens_total").items() if key[1:] == ("bounded", "input")}
    assert found == {("bounded-a", "bounded", "input"): 3, ("other", "bounded", "input"): before + 6}


def test_a_denial_is_a_row_without_tokens() -> None:
    label = ("none", "denied", "invalid_api_key")
    before = values("neuronetz_ledger_rows_total").get(label, 0)
    keyless: dict[str, Any] = {"tenant": None, "surface": None, "model": None, "code": "invalid_api_key"}
    LedgerMetrics(100).record([entry("a", outcome=Outcome.DENIED, **keyless)])
    assert values("neuronetz_ledger_rows_total")[label] == before + 1
    assert [key for key in values("neuronetz_tokens_total") if key[0] == "none"] == []


def test_codes_and_surfaces_of_another_release_share_a_label_value() -> None:
    label = ("other", "upstream_error", "other")
    before = values("neuronetz_ledger_rows_total").get(label, 0)
    row = entry("a", surface="v9_chat", code="from Envoy", outcome=Outcome.UPSTREAM_ERROR)
    LedgerMetrics(100).record([row])
    assert values("neuronetz_ledger_rows_total")[label] == before + 1


def test_the_speed_is_that_of_complete_streams_after_the_first_byte() -> None:
    timed: dict[str, Any] = {"model": "timed", "ttft_ms": 500, "duration_ms": 2500, "output_tokens": 80}
    LedgerMetrics(100).record(
        [
            entry("a", **timed),
            entry("b", **timed, stream=False),
            entry("c", **timed, outcome=Outcome.CLIENT_GONE),
        ]
    )
    assert values("neuronetz_output_tokens_per_second_sum")["timed",] == 40
    assert values("neuronetz_output_tokens_per_second_count")["timed",] == 1
    assert values("neuronetz_time_to_first_token_seconds_sum")["timed",] == 1.5
    assert values("neuronetz_answer_seconds_count")["timed",] == 3


async def test_delivered_tokens_are_counted_once_and_never_decrease() -> None:
    readings = iter([{"live": 5, "idle": 0}, {"live": 4}, {"live": 9}])
    delivered = DeliveredTokens(lambda: next(readings), tenants_max=5)
    before = values("neuronetz_delivered_tokens_total")
    counts = []
    for _ in range(3):
        await delivered.sample()
        counts.append(values("neuronetz_delivered_tokens_total")["live",] - before.get(("live",), 0))
    assert counts == [5, 5, 9]
    assert ("idle",) not in values("neuronetz_delivered_tokens_total")
